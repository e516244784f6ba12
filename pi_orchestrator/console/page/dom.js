// Elements, lists and frames. Strings always become text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected", "open", "indeterminate", "htmlFor"]);
const rowsOf = new WeakMap();

/** Build an element. Functions such as `onclick` are listeners; null and false are ignored. */
export function h(tag, props, ...children) {
  return applyProps(document.createElement(tag), props, children);
}

/** Build an SVG element; arguments as for `h`. */
export function s(tag, props, ...children) {
  return applyProps(document.createElementNS(SVG, tag), props, children);
}

function applyProps(node, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Set a property, an attribute or a listener; unchanged values are not written. */
export function set(node, name, value) {
  if (typeof value === "function") node.addEventListener(name.slice(2), value);
  else if (/^(on|style$|srcdoc$)/.test(name)) {
    if (value) throw new TypeError(`${name} cannot be set from text`);
  } else if (PROPERTIES.has(name)) {
    if (node[name] !== value) node[name] = value ?? "";
  } else if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value === true ? "" : value);
}

/** Set an element's text; an unchanged text is not written. */
export function setText(node, text) {
  const next = String(text ?? "");
  if (node.textContent !== next) node.textContent = next;
}

/** Replace all children of an element. */
export function fill(node, ...children) {
  node.replaceChildren(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
}

/** Replace all children by `child` if the text differs; otherwise they stay, with the user's selection in them. */
export function replaceIfChanged(node, child) {
  if (node.textContent !== child.textContent) node.replaceChildren(child);
}

/**
 * Make the children of `parent` match `items` in order: `create(item)` → {node, update?(item), remove?()}.
 * Existing rows are updated in place, so focus, scroll position and input are kept.
 */
export function keyed(parent, items, keyOf, create) {
  const rows = rowsOf.get(parent) ?? new Map();
  rowsOf.set(parent, rows);
  const next = new Map(items.map((item) => [keyOf(item), item]));
  for (const [key, row] of rows) {
    if (next.has(key)) continue;
    row.remove?.();
    row.node.remove();
    rows.delete(key);
  }
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let at = parent.firstChild;
  for (const [key, item] of next) {
    let row = rows.get(key);
    if (row) row.update?.(item);
    else rows.set(key, (row = create(item)));
    if (row.node === at) at = at.nextSibling;
    else parent.insertBefore(row.node, at);
  }
  if (focused && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

/** Return a function that runs `draw` once in the next frame, however often it is called; `.cancel()` cancels it. */
export function eachFrame(draw) {
  let frame = 0;
  const schedule = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
  schedule.cancel = () => {
    cancelAnimationFrame(frame);
    frame = 0;
  };
  return schedule;
}
