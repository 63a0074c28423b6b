/** Swagger UI of the API, with the key that this page was requested with. */

const key = new URLSearchParams(location.search).get("api_key");
if (key) history.replaceState(null, "", location.pathname + location.hash); // out of address bar and history

const ui = SwaggerUIBundle({
  dom_id: "#api",
  url: key ? `openapi.json?api_key=${encodeURIComponent(key)}` : "openapi.json",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [Audible],
  onComplete: () => key && ui.preauthorizeApiKey("Header", key),
});

/** Swagger UI's own player asks the URL once more, without the key and the body. */
function Audible({ React }) {
  const { createElement, useMemo } = React;

  function Player({ content }) {
    const src = useMemo(() => URL.createObjectURL(content), [content]);
    return createElement("audio", { controls: true, src });
  }

  const responseBody = (Original) => (props) =>
    createElement(props.contentType?.startsWith("audio/") ? Player : Original, props);
  return { wrapComponents: { responseBody } };
}
