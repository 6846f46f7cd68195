// The line protocol of ../drivers/line.py: `ready VERSION` once, then a token in, `ok` or the reason why not out.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export const setup = JSON.parse(process.argv[2]);

export const version = (name) =>
  `${name} ${JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version}`;

export async function answer(versions, verify) {
  console.log(`ready ${versions}`);
  for await (const token of createInterface({ input: process.stdin })) {
    try {
      await verify(token.trim());
      console.log("ok");
    } catch (error) {
      console.log(`${error.name}: ${error.message}`.replace(/\s+/g, " "));
    }
  }
}
