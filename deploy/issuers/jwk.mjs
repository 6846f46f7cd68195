// An issuer that signs in memory with the private JWK that rotator wrote.

import { constants, createPrivateKey, sign } from 'node:crypto';

import { follow } from './follow.mjs';
import { jwt } from './jwt.mjs';

/** Signs claims with the JWK that `read` gives as text; `signerLag` is in milliseconds, `where` for messages. */
export async function jwkIssuer(read, signerLag, where) {
  let key;
  const current = await follow(async () => {
    const jwk = parsed(await read());
    // Before the first promotion, and after `rotator retire`, the value holds no key.
    if (!jwk.kid) return undefined;
    if (jwk.kid !== key?.kid) key = inMemory(jwk, where);
    return key;
  }, signerLag);
  return async (claims) => {
    const found = current();
    if (!found) throw new Error(`${where} holds no key.`);
    return jwt(claims, found);
  };

  function parsed(text) {
    try {
      return JSON.parse(text);
    } catch {
      // Its error would quote the text.
      throw new Error(`${where} is not JSON.`);
    }
  }
}

/** How `node:crypto` signs with a private JWK that has `kid` and `alg` (RFC 7518 section 3, RFC 8037, RFC 9964). */
function inMemory(jwk, where) {
  const { kid, alg } = jwk;
  const key = {
    key: privateKey(jwk, where),
    dsaEncoding: 'ieee-p1363', // r‖s, not DER
    ...(alg.startsWith('PS') && {
      padding: constants.RSA_PKCS1_PSS_PADDING,
      saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
    }),
  };
  // EdDSA and ML-DSA bring their own hash.
  const hash = /^(Ed|ML)/.test(alg) ? null : `sha${alg.slice(2)}`;
  return { kid, alg, signature: (message) => sign(hash, message, key) };
}

function privateKey(jwk, where) {
  try {
    return createPrivateKey({ key: jwk, format: 'jwk' });
  } catch (error) {
    if (jwk.kty !== 'AKP') throw error;
    throw new Error(`${where} holds a key for ${jwk.alg}, which Node ${process.version} cannot use: take 24.6 or newer.`);
  }
}
