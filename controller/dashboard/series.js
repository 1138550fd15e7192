// Columns for charts from the points of the live stream.

const GAP_MS = 3000;

/** How many seconds one point of a chart stands for, so that a long time is not a thicket. */
export const stepOf = (seconds) => (seconds > 300 ? 5 : 1);

const known = (values) => values.filter((value) => value !== null && value !== undefined);

export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
/** Percentiles of several seconds have no mean: the worst second stands for them. */
export const highest = (values) => Math.max(...values);

/** Points in steps that begin at the same times whenever they are looked at. */
function steps(points, seconds) {
  const ms = stepOf(seconds) * 1000;
  const oldest = (points.at(-1)?.at ?? 0) - seconds * 1000;
  const gathered = [];
  for (const point of points) {
    if (point.at < oldest) continue;
    const at = Math.floor(point.at / ms) * ms;
    const last = gathered.at(-1);
    if (last?.at === at) last.points.push(point);
    else gathered.push({ at, points: [point] });
  }
  return gathered;
}

/**
 * Seconds since 1970, then a column for each of `series` (`{ read, gather }`: of a point, and of the
 * numbers of a step), of the last `seconds`. Where the stream was interrupted the lines are, too.
 */
export function columns(points, seconds, series) {
  const drawn = [[], ...series.map(() => [])];
  let before = null;
  for (const step of steps(points, seconds)) {
    if (before !== null && step.at - before > GAP_MS + stepOf(seconds) * 1000) {
      drawn[0].push((before + 1000) / 1000);
      series.forEach((_, index) => drawn[index + 1].push(null));
    }
    drawn[0].push(step.at / 1000);
    series.forEach(({ read, gather = mean }, index) => {
      const values = known(step.points.map(read));
      drawn[index + 1].push(values.length > 0 ? gather(values) : null);
    });
    before = step.at;
  }
  return drawn;
}
