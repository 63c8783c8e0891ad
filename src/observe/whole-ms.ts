/** For JSON.stringify: times in whole milliseconds. The clock has fractions, which tell nobody anything. */
export function wholeMs(key: string, value: unknown): unknown {
  return typeof value === 'number' && /^ms$|Ms$/.test(key) ? Math.round(value) : value;
}
