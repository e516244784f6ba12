// Before anything is drawn: the theme that was chosen here, else the system's.
try {
  document.documentElement.dataset.theme = localStorage.getItem("piorch.theme") ?? "auto";
} catch {
  document.documentElement.dataset.theme = "auto";
}
