import "uplot/dist/uPlot.min.css";
import "./app.css";
import { mount } from "svelte";
import App from "./components/App.svelte";
import { apply } from "./lib/theme";

apply();
const target = document.getElementById("app");
if (target) mount(App, { target });
