// jwks-rsa with jsonwebtoken. Its limit of 10 requests a minute is meant for a cache of minutes, and is raised as much
// as that is shortened.
import jwt from "jsonwebtoken";
import jwksClient from "jwks-rsa";
import { answer, setup, version } from "./line.mjs";

const client = jwksClient({
  jwksUri: setup.url,
  cache: true,
  cacheMaxAge: setup.cache * 1000,
  rateLimit: true,
  jwksRequestsPerMinute: Math.ceil((10 * 600) / setup.cache),
});
// jsonwebtoken refuses the whole call for one name that it does not know.
const known = /^[RPE]S(256|384|512)$/;
const options = {
  algorithms: setup.algorithms.filter((alg) => known.test(alg)),
  issuer: setup.issuer,
  audience: setup.audience,
  clockTolerance: setup.leeway,
};

function key(header, done) {
  client.getSigningKey(header.kid).then(
    (found) => done(null, found.getPublicKey()),
    (error) => done(error),
  );
}

await answer(
  `${version("jwks-rsa")}, ${version("jsonwebtoken")}`,
  (token) =>
    new Promise((resolve, reject) => {
      jwt.verify(token, key, options, (error, claims) => (error ? reject(error) : resolve(claims)));
    }),
);
