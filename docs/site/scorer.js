// Orders what the search finds: chapters and guides first, then the reference, then sources.
var Scorer = { // not const: the search declares it by var where there is none
  score: ([docname, , anchor, , score]) => score + (docname.startsWith("source/") ? -2000 : docname.startsWith("reference/") ? -1000 : anchor ? 0 : 20),
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
