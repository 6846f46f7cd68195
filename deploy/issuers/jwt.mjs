// A compact JWT (RFC 7519, RFC 7515 section 7.1).

const encoded = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** The token of `claims`, signed by `signature`, a function from bytes to bytes or to a promise of them. */
export async function jwt(claims, { kid, alg, signature }) {
  const message = `${encoded({ alg, kid, typ: 'JWT' })}.${encoded(claims)}`;
  return `${message}.${Buffer.from(await signature(Buffer.from(message))).toString('base64url')}`;
}
