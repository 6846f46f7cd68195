// A compact JWT (RFC 7519, RFC 7515 section 7.1).

import { constants, createPrivateKey, sign } from 'node:crypto';

const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** The token of `claims`, signed by `signature`, a function from bytes to bytes or to a promise of them. */
export async function jwt(claims, { kid, alg, signature }) {
  const message = `${encoded({ alg, kid, typ: 'JWT' })}.${encoded(claims)}`;
  return `${message}.${Buffer.from(await signature(Buffer.from(message))).toString('base64url')}`;
}

/** How `node:crypto` signs with a private JWK that has `kid` and `alg` (RFC 7518 section 3, RFC 8037). */
export function inMemory(jwk) {
  const { kid, alg } = jwk;
  const key = {
    key: createPrivateKey({ key: jwk, format: 'jwk' }),
    dsaEncoding: 'ieee-p1363', // r‖s, not DER
    ...(alg.startsWith('PS') && {
      padding: constants.RSA_PKCS1_PSS_PADDING,
      saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
    }),
  };
  // EdDSA brings its own hash.
  const hash = alg.startsWith('Ed') ? null : `sha${alg.slice(2)}`;
  return { kid, alg, signature: (message) => sign(hash, message, key) };
}
