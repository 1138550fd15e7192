// Columns for charts from the points of the live feed.

/** Time without points after which a line is interrupted. */
const GAP_MS = 3000;

/** Seconds that one point of a chart covers, so that long ranges stay readable. */
export const stepOf = (seconds) => (seconds > 300 ? 5 : 1);

const present = (values) => values.filter((value) => value !== null && value !== undefined);

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** Percentiles of several seconds cannot be averaged, so the worst second is shown. */
export const highest = (values) => Math.max(...values);

/** Groups points by step. Steps start at multiples of their length, so that they do not move. */
function steps(points, seconds) {
  const ms = stepOf(seconds) * 1000;
  const oldest = (points.at(-1)?.at ?? 0) - seconds * 1000;
  const groups = [];
  for (const point of points) {
    if (point.at < oldest) continue;
    const at = Math.floor(point.at / ms) * ms;
    const last = groups.at(-1);
    if (last?.at === at) last.points.push(point);
    else groups.push({ at, points: [point] });
  }
  return groups;
}

/**
 * A column of times in seconds since 1970, then a column for each of `series`, over the last `seconds`.
 * `read` takes a value from a point and `aggregate` combines the values of a step. Lines are
 * interrupted where the feed was.
 */
export function columns(points, seconds, series) {
  const result = [[], ...series.map(() => [])];
  let previous = null;
  for (const step of steps(points, seconds)) {
    if (previous !== null && step.at - previous > GAP_MS + stepOf(seconds) * 1000) {
      result[0].push((previous + 1000) / 1000);
      series.forEach((_, index) => result[index + 1].push(null));
    }
    result[0].push(step.at / 1000);
    series.forEach(({ read, aggregate = mean }, index) => {
      const values = present(step.points.map(read));
      result[index + 1].push(values.length > 0 ? aggregate(values) : null);
    });
    previous = step.at;
  }
  return result;
}
