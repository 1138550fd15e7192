// Numbers and times as text, with their units.

export const NONE = "–";

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const NARROW_SPACE = "\u202f";

const PREFIXES = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
  [1, ""],
  [1e-3, "m"],
  [1e-6, "µ"],
  [1e-9, "n"],
];

/** About three significant digits: 1234 → 1,234; 12.3; 0.12. */
export function number(value) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : 2;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en") : NONE;
}

/** With an SI prefix: 0.00012 g → 120 µg. */
export function si(value, unit) {
  if (!isNumber(value)) return NONE;
  const size = Math.abs(value);
  if (size === 0) return `0${NARROW_SPACE}${unit}`;
  const [factor, prefix] = PREFIXES.find(([factor]) => size >= factor * 0.9995) ?? PREFIXES.at(-1);
  return `${number(value / factor)}${NARROW_SPACE}${prefix}${unit}`;
}

export const watts = (value) => si(value, "W");
export const joules = (value) => si(value, "J");
export const grams = (value) => si(value, "g CO₂e");
export const cost = (value, currency) => si(value, currency ?? "");
export const joulesPerToken = (value) => (isNumber(value) ? `${si(value, "J")}/tok` : NONE);
export const perSecond = (value) => (isNumber(value) ? `${number(value)}/s` : NONE);
export const tokensPerSecond = (value) => (isNumber(value) ? `${number(value)}${NARROW_SPACE}tok/s` : NONE);
export const tokens = (value) => (isNumber(value) ? `${count(value)}${NARROW_SPACE}tok` : NONE);

export function ms(value) {
  if (!isNumber(value)) return NONE;
  if (value < 1000) return `${number(value)}${NARROW_SPACE}ms`;
  if (value < 60_000) return `${number(value / 1000)}${NARROW_SPACE}s`;
  return duration(value);
}

/** A duration in milliseconds as text: 5 s, 3 min, 2 h 5 min, 3 d 4 h. */
export function duration(value) {
  const seconds = Math.max(0, Math.round(value / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${Math.floor(hours / 24)} d`;
}

export function percent(part) {
  if (!isNumber(part)) return NONE;
  const hundredths = part * 100;
  const digits = hundredths !== 0 && Math.abs(hundredths) < 10 ? 1 : 0;
  return `${hundredths.toLocaleString("en", { maximumFractionDigits: digits })}${NARROW_SPACE}%`;
}

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value) {
  if (!isNumber(value)) return NONE;
  let amount = value;
  let unit = 0;
  while (amount >= 1000 && unit < BINARY.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${number(amount)}${NARROW_SPACE}${BINARY[unit]}`;
}

/** Used and total bytes in one unit: 3.2 / 8 GiB. */
export function bytesOf(used, total) {
  let factor = 1;
  let unit = 0;
  while (total / factor >= 1000 && unit < BINARY.length - 1) {
    factor *= 1024;
    unit += 1;
  }
  return `${number(used / factor)} / ${number(total / factor)}${NARROW_SPACE}${BINARY[unit]}`;
}

const clock = (options) => {
  const format = new Intl.DateTimeFormat("en-GB", options);
  return (millis) => format.format(new Date(millis));
};

export const hourMinute = clock({ hour: "2-digit", minute: "2-digit" });
export const timeOfDay = clock({ hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const dateAndTime = clock({ dateStyle: "medium", timeStyle: "medium" });

/** `1 node`, `2 nodes`. */
export function counted(amount, singular, plural = `${singular}s`) {
  return `${count(amount)} ${amount === 1 ? singular : plural}`;
}

/** `not_loaded` → `not loaded`. */
export const words = (name) => name.replaceAll("_", " ");
