"""The rules of the page's look, on top of `reports.html`."""

STYLE = """
body { max-width: 1240px; }
nav { margin: .8rem 0; } nav a { margin-inline-end: 1rem; display: inline-block; color: inherit; }
section { border-top: 1px solid var(--edge); margin-top: 1.6rem; } h2 { margin-top: 1rem; }
figure { margin: .4rem 0 1.2rem; } figure h3 { margin: .2rem 0; }
.parts { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; } .parts > figure { flex: 1 1 340px; min-width: 0; }
.parts > div { min-width: 0; max-width: 100%; } .sheet { flex: 0 1 370px; } .sheet.full { flex: 1 1 100%; } .sheet h3 { margin-top: .4rem; }
.chart { flex: 0 1 370px; min-width: 0; width: 100%; max-width: 460px; } .chart svg { display: block; width: 100%; height: auto; }
.chart text { font: 12px system-ui, "Noto Sans", sans-serif; fill: var(--ink); }
.chart polyline { fill: none; stroke-width: 2; } .chart path { fill: none; stroke-width: 1.6; } .chart .grid { stroke: var(--edge); stroke-width: 1; }
.chart circle.ring { fill: none; stroke: #777777; stroke-width: 1.5; }
.chart.map { max-width: 640px; } .map svg path { stroke: #333333; stroke-width: .4; opacity: .85; cursor: default; }
.map svg path.on { stroke: var(--ink); stroke-width: 2.5; opacity: 1; }
.axis, .legend, .ramp, .caption { margin: .2rem 0; font-size: .82rem; } .axis { font-weight: 600; }
.caption { color: var(--faint); overflow-wrap: anywhere; max-width: 75rem; }
.legend span { display: inline-block; margin-inline-end: .9rem; }
.chart .legend svg.mark { display: inline-block; width: 22px; height: 12px; vertical-align: middle; margin-inline-end: .3rem; stroke-width: 2; }
.ramp span { display: inline-block; width: 9rem; height: .7rem; margin: 0 .5rem; vertical-align: middle; border: 1px solid var(--edge); }
.heat { display: flex; flex-wrap: wrap; gap: 1rem 2rem; max-width: 100%; } .heat > .wide { min-width: 0; }
.wide { overflow-x: auto; max-width: 100%; }
.cells { width: auto; font-size: .74rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.cells td { border: 1px solid var(--paper); padding: .1rem .12rem; text-align: center; min-width: 1.55rem; }
.cells th { border: 0; padding: .1rem .3rem; text-align: center; color: var(--ink); }
.cells th:first-child { position: sticky; left: 0; background: var(--paper); text-align: end; white-space: nowrap; }
.cells .w { color: #ffffff; } .cells .b { color: #1b1b1b; }
.cells th.best { text-decoration: underline; font-weight: 700; }
.cells tr.mean th { font-weight: 600; } .cells tr.mean td { border-bottom: 3px solid var(--paper); }
.cells tr.control th { color: var(--faint); font-style: italic; }
.cells .up { position: relative; vertical-align: bottom; line-height: 1.3; }
.cells .up span { position: absolute; left: 50%; bottom: .3em; line-height: 1; white-space: nowrap; transform-origin: 0 50%; transform: rotate(-90deg); }
.cells.grid td { border-color: var(--edge); height: 1.3rem; } .cells.grid th:first-child { text-align: start; }
.cells .sure { box-shadow: inset 0 0 0 2.5px #d55e00; } .cells .possible { outline: 2px dashed #d55e00; outline-offset: -3px; }
details { margin: .3rem 0; } summary { cursor: pointer; font-size: .85rem; color: var(--faint); } details.more > summary { color: var(--ink); font-size: .95rem; }
@media (max-width: 600px) { .cells { font-size: .66rem; } .cells td { min-width: 1.15rem; padding: .1rem 0; } .cells th { padding: .1rem; } }
.cells.many { font-size: .66rem; } .cells.many td { min-width: 1.3rem; padding: .1rem 0; }
.brief td:not(:first-child) { white-space: nowrap; }
.numbers { width: auto; font-size: .82rem; } .numbers small { color: var(--faint); white-space: nowrap; }
"""
