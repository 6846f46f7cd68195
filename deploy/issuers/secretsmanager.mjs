// An issuer whose key is in Secrets Manager: GetSecretValue of AWSCURRENT, and node:crypto.
//
//   const sign = await issuer('acme/jwt/acme/ES256', 2 * 60 * 60 * 1000);
//   const token = await sign({ iss: 'https://id.acme.example', sub: 'u1', exp: Math.floor(Date.now() / 1000) + 3600 });
//
// IAM: deploy/iam/issuer-secretsmanager.json

import { GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';

import { follow } from './follow.mjs';
import { inMemory, jwt } from './jwt.mjs';

/** `secretId` is `{prefix}/{keyset}/{alg}`; `signerLag` the policy's signer_lag in milliseconds, or less. */
export async function issuer(secretId, signerLag) {
  const client = new SecretsManagerClient({});
  let key;
  const current = await follow(async () => {
    const request = new GetSecretValueCommand({ SecretId: secretId, VersionStage: 'AWSCURRENT' });
    const jwk = JSON.parse((await client.send(request)).SecretString);
    // Before the first promotion, and after `rotator retire`, the value holds no key.
    if (!jwk.kid) return undefined;
    if (jwk.kid !== key?.kid) key = inMemory(jwk);
    return key;
  }, signerLag);
  return (claims) => {
    const found = current();
    if (!found) throw new Error(`Secret ${secretId} holds no key.`);
    return jwt(claims, found);
  };
}
