/** How a figure went over time: whether it stayed below a bound or kept growing. */

export interface Point {
  readonly atMs: number;
  readonly value: number;
}

/** Greatest values of the first quarter of the time, of the two in the middle, and of the last; 0 where there is none. */
export interface Course {
  readonly begin: number;
  readonly middle: number;
  readonly end: number;
}

/** The time is that of the last point. */
export function courseOf(points: readonly Point[]): Course {
  const totalMs = points.at(-1)?.atMs ?? 0;
  const greatest = (fromShare: number, toShare: number): number =>
    points.reduce((most, { atMs, value }) => {
      const isWithin = atMs > totalMs * fromShare && atMs <= totalMs * toShare;
      return isWithin ? Math.max(most, value) : most;
    }, 0);
  return { begin: greatest(-1, 0.25), middle: greatest(0.25, 0.75), end: greatest(0.75, 1) };
}

/** Which share of the values each value has, the most frequent first. */
export function sharesOf(values: readonly string[]): Record<string, number> {
  const counts = new Map<string, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const sorted = [...counts].sort(([, a], [, b]) => b - a);
  return Object.fromEntries(sorted.map(([value, count]) => [value, count / values.length]));
}
