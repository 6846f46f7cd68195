// aws-jwt-verify keeps a set until it meets a kid that is not in it; no option shortens that.
import { JwtVerifier } from "aws-jwt-verify";
import { answer, setup, version } from "./line.mjs";

const verifier = JwtVerifier.create({
  issuer: setup.issuer,
  audience: setup.audience,
  jwksUri: setup.url,
  graceSeconds: setup.leeway,
});

await answer(version("aws-jwt-verify"), (token) => verifier.verify(token));
