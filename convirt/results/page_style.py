"""The style sheet of the page of tables, for light and dark mode, for phones and desktops."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1c1c1e; --faint: #62666d;
  --rule: #d5d8dd; --card: #f5f6f8; --accent: #0b5fa5; --best: #e3eef8; --warn: #fff3d6;
  --warn-ink: #5a4300; --yes: #0b6b4c; --no: #a83800; --part: #7a5600; }
@media (prefers-color-scheme: dark) { :root { --paper: #141518; --ink: #e9eaec; --faint: #a3a8b0;
  --rule: #3a3d44; --card: #1e2025; --accent: #7ab8ee; --best: #1b3145; --warn: #3a2f12;
  --warn-ink: #f3dfa6; --yes: #5fcfa3; --no: #ff9d6b; --part: #e8c15a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: var(--accent); }
code { overflow-wrap: anywhere; font-size: .9em; }
.faint, figcaption, .notes { color: var(--faint); font-size: .875rem; }
.origin { background: var(--warn); color: var(--warn-ink); border-radius: .5rem;
  padding: .7rem .9rem; margin: 1rem 0; max-width: none; }
.short { font-size: 1.1rem; max-width: none; }
.claims { display: grid; gap: .8rem; margin: 1rem 0; padding: 0; list-style: none;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr));
}
.claims li { background: var(--card); border-radius: .5rem; padding: .9rem; min-width: 0; }
.claims ul { margin: .4rem 0 0; padding-left: 1.1rem; font-size: .85rem; color: var(--faint); }
.claims ul li { background: none; padding: 0; border-radius: 0; }
.answer { display: inline-block; font-weight: 700; }
.answer::first-letter { text-transform: uppercase; }
.yes { color: var(--yes); } .no { color: var(--no); }
.partly, .not-told-apart { color: var(--part); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem .9rem; padding: 0; margin: .5rem 0;
  list-style: none; font-size: .9rem; }
nav a { display: inline-block; padding: .3rem 0; }
.scroll { position: relative; overflow-x: auto; border: 1px solid var(--rule);
  border-radius: .5rem; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums;
  font-size: .875rem; min-width: 100%; }
th, td { padding: .35rem .55rem; text-align: center; vertical-align: top;
  border-bottom: 1px solid var(--rule); white-space: nowrap; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; vertical-align: bottom; background: var(--card); }
th[scope=row], .corner { position: sticky; left: 0; z-index: 1; text-align: left;
  font-weight: 600; background: var(--paper); border-right: 1px solid var(--rule); }
.corner { background: var(--card); }
th[scope=row] { white-space: normal; min-width: 7.5rem; max-width: 11rem; }
.edge { border-left: 1px solid var(--rule); }
tr.own > * { border-top: 2px solid var(--faint); }
td.best { background: var(--best); } td.best .value { font-weight: 700; }
.value { font-size: 1rem; } .between, .delta, .printed { display: block; font-size: .72rem; }
.delta, .printed { color: var(--faint); }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.agrees { color: var(--accent); } .contradicts { color: var(--no); }
figure { margin: .8rem 0; } figcaption { margin-top: .5rem; max-width: 46rem; }
figure img { display: block; width: 100%; height: auto; background: #fff;
  border-radius: .5rem; border: 1px solid var(--rule); }
figure .scroll img { border: 0; border-radius: 0; width: auto; min-width: 40rem; max-width: 100%; }
@media (max-width: 40rem) { body { padding: .75rem; } h1 { font-size: 1.35rem; }
  th[scope=row] { min-width: 6.2rem; max-width: 7.5rem; font-size: .8rem; } }
@media print { .scroll { overflow: visible; border: 0; } }
"""
