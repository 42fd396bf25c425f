/** A rank's look: colour and dash, told apart without colour vision and on light and dark alike. */

export interface Look {
  color: string;
  dash: number[];
}

/** Eight colours of about equal weight (after Okabe and Ito, moved to mid lightness). */
export const COLORS = [
  "#3b6fd4",
  "#d97706",
  "#0d9488",
  "#c0497e",
  "#7c5cd6",
  "#5b8c2a",
  "#c2452d",
  "#5f7d95",
] as const;

const DASHES: readonly number[][] = [[], [7, 4], [2, 3], [9, 3, 2, 3]];

/** The n-th look: colours first, then the same colours with the next dash. */
export function look(n: number): Look {
  return {
    color: COLORS[n % COLORS.length] as string,
    dash: DASHES[Math.floor(n / COLORS.length) % DASHES.length] as number[],
  };
}
