// What every issuer must keep to, wherever its key comes from: read the pointer again well within signer_lag, and sign
// with nothing that was read longer ago than that.

// The age of what was read counts from when the read began: a slow answer is no newer. Both clocks are asked, because
// a suspended machine stops the one and a wrong date sets the other.
const now = () => ({ elapsed: performance.now(), wall: Date.now() });
const since = (then) => Math.max(performance.now() - then.elapsed, Date.now() - then.wall);

/**
 * Calls `read` now, four times in every `signerLag` (milliseconds) and at least every five minutes; returns a function
 * that gives what the last successful call returned, and throws once that is older than `signerLag`. Its `again` reads
 * at once.
 */
export async function follow(read, signerLag) {
  let known;
  let fault;
  const again = async () => {
    const began = now();
    try {
      const found = await read();
      if (!known || began.elapsed >= known.began.elapsed) known = { began, found };
      fault = undefined;
    } catch (error) {
      fault = error;
    }
  };
  await again();
  if (!known) throw fault;
  // The timer does not keep a process alive that has nothing else to do.
  setInterval(again, Math.min(signerLag / 4, 5 * 60 * 1000)).unref();
  const current = () => {
    if (since(known.began) < signerLag) return known.found;
    throw new Error('The current key was not read for signer_lag: nothing is signed until it is.', { cause: fault });
  };
  return Object.assign(current, { again });
}
