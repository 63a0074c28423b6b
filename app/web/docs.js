/** Swagger UI of the API, with the key that the page at `/` keeps, or that this one asks for. */

import { UNREACHABLE, failureOf } from "./api.js";
import { Key, headerOf } from "./api_key.js";
import { byId, say } from "./dom.js";

const FIRST_ERROR = 400;

const dark = matchMedia("(prefers-color-scheme: dark)");
const key = new Key();

/** Shows the API, if the server takes the key. */
async function show(value) {
  const headers = { "X-API-Key": headerOf(value) };
  const answer = await fetch("openapi.json", { headers, cache: "no-store" }).catch(() => null);
  if (!answer) return UNREACHABLE;
  if (!answer.ok) return (await failureOf(answer)).advice;
  const ui = SwaggerUIBundle({
    dom_id: "#api",
    spec: await answer.json(),
    presets: [SwaggerUIBundle.presets.apis],
    plugins: [Audible, FoldedErrors],
    onComplete: () => ui.preauthorizeApiKey("Header", value),
  });
  key.keep(value);
  return "";
}

async function open(value) {
  const problem = value ? await show(value) : "";
  byId("ask").hidden = Boolean(value) && !problem;
  say(byId("problem"), problem);
}

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

/** Of an error, the example is shown on demand. */
function FoldedErrors({ React }) {
  const { createElement, useState } = React;

  function Folded({ Original, ...props }) {
    const [open, setOpen] = useState(false);
    if (open) return createElement(Original, props);
    const button = createElement("button", { className: "btn", onClick: () => setOpen(true) }, "Example");
    const cells = [
      createElement("td", { key: 1, className: "response-col_status" }, props.code),
      createElement("td", { key: 2, className: "response-col_description" }, props.response.get("description").replaceAll("`", "")),
      createElement("td", { key: 3, className: "response-col_links" }, button),
    ];
    return createElement("tr", { className: "response" }, cells);
  }

  const response = (Original) => (props) =>
    Number(props.code) >= FIRST_ERROR || props.code === "default"
      ? createElement(Folded, { Original, ...props })
      : createElement(Original, props);
  return { wrapComponents: { response } };
}

/** Of the address, which is rid of it: in a query, it was sent to the server already. */
function keyInAddress() {
  const given = new URLSearchParams(location.search).get("api_key");
  if (given) history.replaceState(null, "", location.pathname + location.hash);
  return given ?? "";
}

const adaptToTheme = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", adaptToTheme);
adaptToTheme();

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  open(byId("key").value.trim());
});
open(keyInAddress() || key.value);
