"""Colours that a colour-blind reader can tell apart: those of Okabe and Ito (2008), and a grey."""

BLUE, ORANGE, GREEN, RED, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
SKY, BLACK, GREY = "#56B4E9", "#000000", "#7F7F7F"
