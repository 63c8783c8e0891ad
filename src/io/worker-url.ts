/** Where the built entry of a thread is: `name` of a file beside this one, or in dist when this file runs from source. */
export function workerUrl(name: string): URL {
  const here = import.meta.url;
  // Threads cannot run TypeScript on Node 20: tests that run from source use what was built.
  if (here.endsWith('.ts')) return new URL(here.replace('/src/', '/dist/').replace(/[^/]*$/, `${name}.js`));
  return new URL(`./${name}.js`, here);
}
