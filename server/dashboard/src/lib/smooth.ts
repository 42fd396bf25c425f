/** Debiased exponential smoothing that does not depend on how a series was down-sampled. */

/** A run longer than this is smoothed as if it had so many points: the same look at every length. */
const POINTS_NOMINAL = 1000;

/**
 * The mean of each bucket, smoothed with weight `s` (0 none … 1 all).
 *
 * A bucket of n points counts as n points of its mean, so wider buckets give the same curve, sampled
 * less often. `total` is the number of points of the whole series. `before` are buckets in front of
 * the first one (of a zoomed view), which are smoothed over and not returned.
 */
export function smooth(
  means: (number | null)[],
  counts: ArrayLike<number>,
  s: number,
  total: number,
  before: { mean: number; n: number }[] = [],
): (number | null)[] {
  if (s <= 0) return means;
  const rate = POINTS_NOMINAL / Math.max(POINTS_NOMINAL, total);
  let level = 0;
  let weight = 0;
  const take = (mean: number, n: number): void => {
    const keep = Math.min(s, 0.9999) ** (n * rate);
    level = level * keep + mean * (1 - keep);
    weight = weight * keep + (1 - keep);
  };
  for (const { mean, n } of before) if (n > 0) take(mean, n);
  return means.map((mean, i) => {
    if (mean === null) return null;
    take(mean, counts[i] ?? 1);
    return weight > 0 ? level / weight : mean;
  });
}
