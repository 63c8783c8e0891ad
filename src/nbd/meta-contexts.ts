/** Choosing metadata contexts. @see NBD spec, "Metadata querying" */

/** A context that a client may ask about with BLOCK_STATUS. */
export interface SelectedContext {
  /** Unique on this connection, never 0. */
  readonly id: number;
  readonly name: string;
}

/**
 * The contexts that LIST_META_CONTEXT answers: those that match a query, each once, in our order; all when there is no
 * query. `namespace:` matches every context of that namespace. Queries of unknown namespaces match nothing.
 */
export function listContexts(available: readonly string[], queries: readonly string[]): string[] {
  if (queries.length === 0) return [...available];
  return available.filter((name) => queries.some((query) => query === name || query === namespaceOf(name)));
}

/** The contexts that SET_META_CONTEXT selects: exact names only, each once. */
export function selectContexts(available: readonly string[], queries: readonly string[]): SelectedContext[] {
  const selected: SelectedContext[] = [];
  available.forEach((name, index) => {
    if (queries.includes(name)) selected.push({ id: index + 1, name });
  });
  return selected;
}

/** `base:` of `base:allocation`. */
function namespaceOf(name: string): string {
  return name.slice(0, name.indexOf(':') + 1);
}
