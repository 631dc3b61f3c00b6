// A click on an image enlarges it. Without scripts, the page shows all images in their own size.
const dialog = document.body.appendChild(document.createElement("dialog"));
dialog.addEventListener("click", () => dialog.close());
for (const image of document.querySelectorAll("img.pixels")) {
  const enlarge = () => { dialog.replaceChildren(image.cloneNode()); dialog.showModal(); };
  Object.assign(image, { tabIndex: 0, role: "button" }).classList.add("enlarged");
  image.addEventListener("click", enlarge);
  image.addEventListener("keydown", (event) => event.key === "Enter" && enlarge());
}

// A slider shows one of several images; it begins with the last.
for (const slider of document.querySelectorAll(".slider")) {
  const input = slider.querySelector("input"), figures = [...slider.querySelectorAll("figure")];
  const show = () => figures.forEach((figure, index) => { figure.hidden = index !== Number(input.value); });
  Object.assign(input, { min: 0, max: figures.length - 1, value: figures.length - 1 }).addEventListener("input", show);
  slider.classList.add("interactive");
  show();
}
