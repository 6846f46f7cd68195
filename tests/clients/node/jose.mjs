// jose, whose cooldown of 30 s keeps it from asking again for a kid it does not know.
import { createRemoteJWKSet, jwtVerify } from "jose";
import { answer, setup, version } from "./line.mjs";

const keys = createRemoteJWKSet(new URL(setup.url), { cacheMaxAge: setup.cache * 1000 });
const options = {
  algorithms: setup.algorithms,
  issuer: setup.issuer,
  audience: setup.audience,
  clockTolerance: setup.leeway,
};

await answer(version("jose"), (token) => jwtVerify(token, keys, options));
