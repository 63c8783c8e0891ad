/** What the product promises by now: each line goes when its part is there, and with it what the oracle overlooks. */

/** After an unclean stop of the mirror, what may be in the image already arrives as one staged run. */
export const STAGED_RESUME = false;
