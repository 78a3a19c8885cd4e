"use strict";
// Pictures over time: one sheet at a time, the last one first, by a slider.

const sheets = [...document.querySelectorAll(".over-time")];
const slider = document.querySelector("#time input");

function show() {
  sheets.forEach((sheet, place) => {
    sheet.hidden = place !== Number(slider.value);
  });
}

slider.parentElement.hidden = false;
slider.addEventListener("input", show);
show();
