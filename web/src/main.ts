import { mount } from "svelte";
import App from "./App.svelte";
import { startLanguage } from "./lib/i18n/index.svelte";
import "./lib/theme.css";

const target = document.getElementById("app");
if (target === null) throw new Error("the page has no place for the app");

// A language other than English is fetched before anything is shown, so that nothing changes under the eye.
await startLanguage();
mount(App, { target });
