// An issuer whose key is in KMS: pointer.json beside rotator's ledger, and Sign with the key that it names.
//
//   const sign = await issuer('acme-rotator-ledger', 'acme/ES256.pointer.json', 2 * 60 * 60 * 1000);
//   const token = await sign({ iss: 'https://id.acme.example', sub: 'u1', exp: Math.floor(Date.now() / 1000) + 3600 });
//
// IAM: deploy/iam/issuer-kms.json

import { createHash } from 'node:crypto';

import { KMSClient, SignCommand } from '@aws-sdk/client-kms';
import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';

import { follow } from './follow.mjs';
import { jwt } from './jwt.mjs';

// What KMS calls an algorithm of RFC 7518, RFC 8037 and RFC 9964.
const SCHEMES = { RS: 'RSASSA_PKCS1_V1_5_SHA_', PS: 'RSASSA_PSS_SHA_', ES: 'ECDSA_SHA_' };
const WHOLE = { Ed: 'ED25519_SHA_512', ML: 'ML_DSA_SHAKE_256' }; // these bring a hash of their own
const named = (alg) => WHOLE[alg.slice(0, 2)] ?? SCHEMES[alg.slice(0, 2)] + alg.slice(2);

// What KMS answers for a key that will not sign again.
const STOPPED = ['DisabledException', 'KMSInvalidStateException', 'NotFoundException'];

// The most that KMS hashes itself.
const RAW_BYTES = 4096;

/** `bucket` and `pointer` say where pointer.json is; `signerLag` is the policy's signer_lag in ms, or less. */
export async function issuer(bucket, pointer, signerLag) {
  const s3 = new S3Client({});
  const kms = new KMSClient({});
  const current = await follow(async () => {
    const answer = await s3.send(new GetObjectCommand({ Bucket: bucket, Key: pointer }));
    return JSON.parse(await answer.Body.transformToString());
  }, signerLag);
  const sign = (claims) => {
    const { kid, alg, key_arn: arn } = current();
    // After `rotator retire` the pointer names no key.
    if (!arn) throw new Error(`${pointer} names no key.`);
    return jwt(claims, { kid, alg, signature: (message) => signature(kms, arn, alg, message) });
  };
  return async (claims) => {
    try {
      return await sign(claims);
    } catch (error) {
      if (!STOPPED.includes(error.name)) throw error;
      // After a revoke the pointer names another key before this one is disabled.
      await current.again();
      return sign(claims);
    }
  };
}

async function signature(kms, arn, alg, message) {
  const long = message.length > RAW_BYTES;
  if (long && alg.slice(0, 2) in WHOLE) {
    throw new Error(`KMS signs at most ${RAW_BYTES} bytes with ${alg}; this token has ${message.length}.`);
  }
  const answer = await kms.send(
    new SignCommand({
      KeyId: arn, // the very ARN: an alias may follow late
      SigningAlgorithm: named(alg),
      MessageType: long ? 'DIGEST' : 'RAW',
      Message: long ? createHash(`sha${alg.slice(2)}`).update(message).digest() : message,
    }),
  );
  return alg.startsWith('ES') ? joined(Buffer.from(answer.Signature), alg) : answer.Signature;
}

// KMS answers with the DER of SEQUENCE { INTEGER r, INTEGER s }; JOSE wants r‖s, each as long as the curve
// (RFC 7518 section 3.4).
function joined(der, alg) {
  const size = { ES256: 32, ES384: 48, ES512: 66 }[alg];
  const r = der[1] < 0x80 ? 4 : 5;
  const s = r + der[r - 1] + 2;
  const out = Buffer.alloc(2 * size);
  put(der.subarray(r, s - 2), size);
  put(der.subarray(s), 2 * size);
  return out;

  function put(integer, end) {
    const digits = integer.subarray(Math.max(0, integer.length - size)); // without the zero of its sign
    digits.copy(out, end - digits.length);
  }
}
