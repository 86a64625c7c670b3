// Turns enrich.js into a component: node build.mjs <path of the .wasm to write>
//
// By the API of componentize-js; it links the JavaScript engine in, so the result is about 12 MB.

import { writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { componentize } from "@bytecodealliance/componentize-js";

const target = process.argv[2];
if (!target) {
  console.error("usage: node build.mjs <path of the .wasm to write>");
  process.exit(2);
}
const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { component } = await componentize({
  sourcePath: here("enrich.js"),
  witPath: process.env.WIT_PATH ?? here("../../wit"),
  worldName: "function",
  // forewarm gives no network: without these the component does not ask for it. Console, clocks and randomness stay.
  disableFeatures: ["http", "fetch-event"],
});
await writeFile(target, component);
