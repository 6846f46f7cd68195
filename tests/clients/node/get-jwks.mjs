// get-jwks with fast-jwt, as both show it. What it finds no more it goes on using for a second `ttl`.
import { createVerifier } from "fast-jwt";
import buildGetJwks from "get-jwks";
import { answer, setup, version } from "./line.mjs";

const { origin, pathname } = new URL(setup.url);
const jwks = buildGetJwks({ jwksPath: pathname, ttl: setup.cache * 1000 });
// fast-jwt refuses the whole verifier for one name that it does not know.
const known = /^([RPE]S(256|384|512)|EdDSA)$/;

const verify = createVerifier({
  key: ({ header }) => jwks.getPublicKey({ domain: origin, kid: header.kid, alg: header.alg }),
  algorithms: setup.algorithms.filter((alg) => known.test(alg)),
  allowedIss: setup.issuer,
  allowedAud: setup.audience,
  clockTolerance: setup.leeway * 1000,
});

await answer(`${version("get-jwks")}, ${version("fast-jwt")}`, verify);
