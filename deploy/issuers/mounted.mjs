// An issuer whose key External Secrets Operator keeps in a file (external-secret.yaml): a private JWK, and node:crypto.
//
//   const sign = await issuer('/var/run/signing-key/jwk.json', 5 * 60 * 1000);
//   const token = await sign({ iss: 'https://id.acme.example', sub: 'u1', exp: Math.floor(Date.now() / 1000) + 3600 });
//
// The file does not say when the operator last read the secret: what is said there about alerts belongs to the recipe.

import { readFile } from 'node:fs/promises';

import { jwkIssuer } from './jwk.mjs';

/** `readAgain` is how long, in milliseconds, a file that was read counts: part of the policy's signer_lag. */
export function issuer(file, readAgain) {
  return jwkIssuer(() => readFile(file, 'utf8'), readAgain, file);
}
