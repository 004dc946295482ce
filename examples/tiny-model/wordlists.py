"""Small sets of words that the captions are made with."""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


COLOURS = _set("""red orange yellow green blue purple pink brown black white gray grey golden silver colorful beige
    violet seagreen""")
LINKS = _set("of in on and with a to for from by at the")
# Words of titles that say nothing about the drawing.
NOISE = _set("""s t md clipart clip art openclipart svg png aj arki aiga contour ganson rpswb gnome lwc w b bw bn colour
    color illustration drawn with straight lines icon icons icone drawing image simbol v ii iii iv example collection r
    rpg elements stylized stylised style bwh submission sibmission feaux fr cm yet another an the my x d""")
# Keywords that name the library's folders or say nothing.
DULL = _set("""geometry magick shapes shape theme icon icons symbol sign action mapsym unsorted special recreation menu
    equipment computer application simple filesystem creation activities places place design logo linux openclipart
    element stock ideas back emblem work office signs mimetypes webpage appicon desktop festive entertainment drawing
    picture""")
UNCOUNTED = _set("""bread milk water rain snow lightning honey butter cheese bacon pasta spaghetti soup salad money
    paper garlic toast lasagna people women men children clothes hair music fire smoke salami corn wine beer coffee tea
    lemonade""")
SINGULAR_S = ("ss", "us", "is", "ass", "lens", "gas", "bus", "glass", "cross", "dress", "chess")
NUMBERS = {"2": "two", "3": "three", "4": "four", "5": "five", "6": "six"}
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
RANKS = {**NUMBERS, "7": "seven", "8": "eight", "9": "nine", "10": "ten"}
RANKS |= {"a": "ace", "j": "jack", "q": "queen", "k": "king"}
