// Set the theme before the first paint: the one chosen in this browser, else the system's.
try {
  document.documentElement.dataset.theme = localStorage.getItem("piorch.theme") ?? "auto";
} catch {
  document.documentElement.dataset.theme = "auto";
}
