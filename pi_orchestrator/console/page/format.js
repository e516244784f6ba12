// Numbers and times as text. Ages use the daemon's clock, which may differ from the browser's.

let clockOffsetMs = 0;

/** Update the clock offset from a timestamp of the daemon. */
export function syncClock(timestamp) {
  const at = Date.parse(timestamp);
  if (Number.isFinite(at)) clockOffsetMs = at - Date.now();
}

/** The daemon's time in ms. */
export const now = () => Date.now() + clockOffsetMs;

const UNITS = [
  ["d", 86400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
];

/** Seconds as "3 h 12 min". */
export function duration(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    rest %= size;
    if (count || (unit === "s" && !parts.length)) parts.push(`${count} ${unit}`);
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** A time as its age: "now", "12 s ago", "3 min ago". */
export function ago(timestamp) {
  const seconds = Math.round((now() - Date.parse(timestamp)) / 1000);
  if (!Number.isFinite(seconds)) return "never";
  if (seconds < -5) return `in ${duration(-seconds)}`;
  if (seconds < 3) return "now";
  const [unit, size] = UNITS.find(([, length]) => seconds >= length);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hour12: false,
});

/** A full date and time, in the browser's time zone. */
export const moment = (timestamp) => formatted(MOMENT, timestamp);

/** A time of day. */
export const clock = (timestamp) => formatted(CLOCK, timestamp);

function formatted(format, timestamp) {
  const at = new Date(timestamp);
  return Number.isFinite(at.getTime()) ? format.format(at) : "";
}

/** Bytes as "140 KiB". */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let step = 0;
  let value = Number(count) || 0;
  while (value >= 1024 && step < units.length - 1) {
    value /= 1024;
    step += 1;
  }
  return `${value.toFixed(value < 10 && step ? 1 : 0)} ${units[step]}`;
}

/** "1 camera", "3 cameras". */
export const count = (number, singular, plural = `${singular}s`) => `${number} ${number === 1 ? singular : plural}`;

/** Signal quality of a dBm value, in the API's terms; "unknown" if there is no signal. */
export function quality(dbm) {
  if (!dbm) return "unknown";
  if (dbm >= -50) return "excellent";
  if (dbm >= -60) return "good";
  return dbm >= -70 ? "fair" : "poor";
}

/** dBm with a real minus sign. */
export const dbm = (value) => `${String(value).replace("-", "\u2212")} dBm`;

/** A text with a capital first letter. */
export const sentence = (text) => text && text[0].toUpperCase() + text.slice(1);
