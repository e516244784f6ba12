// Elements, lists and frames. Whatever comes from outside becomes text: there is no way in here to make markup of it.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "indeterminate", "htmlFor"]);
const rowsOf = new WeakMap();

/** Build an element: functions such as `onclick` are listeners, null and false are left out. */
export function h(tag, props, ...children) {
  return furnish(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props, ...children) {
  return furnish(document.createElementNS(SVG, tag), props, children);
}

function furnish(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set a property, an attribute or a listener; what has not changed is not touched. */
export function set(node, name, value) {
  if (typeof value === "function") node.addEventListener(name.slice(2), value);
  else if (/^(on|style$|srcdoc$)/.test(name)) {
    if (value) throw new TypeError(`${name} is not set from text`);
  } else if (PROPERTIES.has(name)) {
    if (node[name] !== value) node[name] = value ?? "";
  } else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** Make `text` what an element says. */
export function say(node, text) {
  const wanted = String(text ?? "");
  if (node.textContent !== wanted) node.textContent = wanted;
}

/** Put these children in place of all others. */
export function fill(node, ...children) {
  node.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
}

/** Put `child` in place of what there is, where it says something else: what is marked to be copied stays marked. */
export function refill(node, child) {
  if (node.textContent !== child.textContent) node.replaceChildren(child);
}

/**
 * Make the children of `parent` those of `items`, in their order: `create(item)` → {node, update?(item), remove?()}.
 * What stays is updated in place, so focus, scroll and what was typed are kept.
 */
export function keyed(parent, items, keyOf, create) {
  const rows = rowsOf.get(parent) ?? new Map();
  rowsOf.set(parent, rows);
  const wanted = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, row] of rows) {
    if (wanted.has(key)) continue;
    row.remove?.();
    row.node.remove();
    rows.delete(key);
  }
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let at = parent.firstChild;
  for (const [key, item] of wanted) {
    let row = rows.get(key);
    if (row) row.update?.(item);
    else rows.set(key, (row = create(item)));
    if (row.node === at) at = at.nextSibling;
    else parent.insertBefore(row.node, at);
  }
  if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

/** A function that runs `draw` once in the next frame, however often it is called before; `.cancel()` takes it back. */
export function eachFrame(draw) {
  let frame = 0;
  const ask = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
  ask.cancel = () => {
    cancelAnimationFrame(frame);
    frame = 0;
  };
  return ask;
}
