/** Helpers to find and create elements. */

/** @param {string} id  @returns {any} */
export const byId = (id) => document.getElementById(id);

/**
 * An element with properties (or attributes, where there is no such property) and children.
 * @param {string} name
 * @param {Record<string, any>} properties
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Shows pairs of term and value in a `<dl>`. @param {Element} list @param {string[][]} pairs */
export function showPairs(list, pairs) {
  list.replaceChildren(
    ...pairs.map(([term, value]) =>
      element("div", {}, element("dt", {}, term), element("dd", {}, value)),
    ),
  );
}

/** Sets a text only if it is another one: a live region is read anew each time. */
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

/** A button that shows a sign and is read as `name`. */
export function iconButton(sign, name, react) {
  const button = element("button", { type: "button", className: "quiet icon", title: name }, sign);
  button.setAttribute("aria-label", name);
  button.addEventListener("click", react);
  return button;
}
