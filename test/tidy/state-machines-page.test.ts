import { describe, expect, it } from 'vitest';
import { TRANSITIONS } from '../../src/primary/transitions.ts';
import { stateMachinesPage } from './state-machines-page.ts';

describe('the states of a session', () => {
  it('are drawn in docs/state-machines.md as the table has them (npm run docs draws them anew)', async () => {
    await expect(stateMachinesPage()).toMatchFileSnapshot('../../docs/state-machines.md');
  });

  it('have an arrow for each cell that leads elsewhere, and a row for each event', () => {
    const page = stateMachinesPage();
    const targets = Object.entries(TRANSITIONS).flatMap(([state, cells]) => {
      const elsewhere = new Set<string>(Object.values(cells).filter((next) => next !== 'same' && next !== 'bug'));
      return [...elsewhere].map((target) => `${state.replace('-', '_')} --> ${target.replace('-', '_')}: `);
    });
    expect(targets.filter((arrow) => !page.includes(arrow))).toEqual([]);
    expect(page.match(/ --> /g)?.length).toBe(targets.length + 1);
    for (const event of Object.keys(TRANSITIONS.offline))
      expect(page).toMatch(new RegExp(`^\\| \`${event}\` \\|( [^|]* \\|){10}$`, 'm'));
  });
});
