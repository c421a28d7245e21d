import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

/** What the first page needs anyway: one file of it has one head, and is compressed better than thirty. */
const CORE =
  /src\/lib\/(?:api\/(?:client|events)|form\/schema\.ts|ui\/(?:Button|Dialog|Expected|Field|Icon|IconButton|Menu|Picture|ProgressBar|Select|State|TextArea|TextField|Toasts|Toggle|Wordmark)\.svelte|estimate|files|jobs|layers?\b|models|notices|press|problems|router|session|shortcuts|stored|telling|theme\.svelte|typing)/;

/** A running Swell, to which `make web-dev` passes on whatever is not of the app. */
const server = process.env.SWELL_URL ?? "http://127.0.0.1:8000";

const passed = ["/v1", "/docs", "/models", "/health", "/openapi.json", "/llms.txt", "/metrics"];

export default defineConfig({
  // Relative, so that the app works under any prefix without being told of it.
  base: "./",
  plugins: [svelte()],
  build: {
    target: ["chrome111", "firefox113", "safari16.4"],
    // The policy allows no data: in scripts and styles, and every file is cached for ever.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: "core", test: CORE }] } } },
  },
  server: {
    proxy: Object.fromEntries(passed.map((path) => [path, { target: server, changeOrigin: false }])),
  },
});
