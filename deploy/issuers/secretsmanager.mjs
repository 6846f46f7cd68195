// An issuer whose key is in Secrets Manager: GetSecretValue of AWSCURRENT, and node:crypto.
//
//   const sign = await issuer('acme/jwt/acme/ES256', 2 * 60 * 60 * 1000);
//   const token = await sign({ iss: 'https://id.acme.example', sub: 'u1', exp: Math.floor(Date.now() / 1000) + 3600 });
//
// IAM: deploy/iam/issuer-secretsmanager.json

import { GetSecretValueCommand, SecretsManagerClient } from '@aws-sdk/client-secrets-manager';

import { jwkIssuer } from './jwk.mjs';

/** `secretId` is `{prefix}/{keyset}/{alg}`; `signerLag` the policy's signer_lag in milliseconds, or less. */
export function issuer(secretId, signerLag) {
  const client = new SecretsManagerClient({});
  const request = { SecretId: secretId, VersionStage: 'AWSCURRENT' };
  const read = async () => (await client.send(new GetSecretValueCommand(request))).SecretString;
  return jwkIssuer(read, signerLag, `Secret ${secretId}`);
}
