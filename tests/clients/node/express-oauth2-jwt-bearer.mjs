// express-oauth2-jwt-bearer in an Express application; each of its middlewares has one algorithm. Its cooldown is 30 s.
import { once } from "node:events";
import express from "express";
import { auth } from "express-oauth2-jwt-bearer";
import { answer, setup, version } from "./line.mjs";

const app = express();
// It refuses to be made for a name that it does not know.
const known = /^([RPE]S(256|384|512)|EdDSA)$/;
for (const alg of setup.algorithms.filter((name) => known.test(name))) {
  app.use(
    `/${alg}`,
    auth({
      issuer: setup.issuer,
      jwksUri: setup.url,
      audience: setup.audience,
      tokenSigningAlg: alg,
      cacheMaxAge: setup.cache * 1000,
      clockTolerance: setup.leeway,
    }),
  );
  app.get(`/${alg}`, (request, response) => response.json(request.auth.payload));
}
app.use((error, request, response, next) => response.status(error.status ?? 500).send(`${error.message}`));

const server = app.listen(0, "127.0.0.1");
await once(server, "listening");
const algOf = (token) => JSON.parse(Buffer.from(token.split(".")[0], "base64url")).alg;

await answer(version("express-oauth2-jwt-bearer"), async (token) => {
  const response = await fetch(`http://127.0.0.1:${server.address().port}/${algOf(token)}`, {
    headers: { authorization: `Bearer ${token}` },
  });
  const body = await response.text();
  if (!response.ok) throw new Error(`${response.status} ${body}`);
});
server.closeAllConnections();
server.close();
