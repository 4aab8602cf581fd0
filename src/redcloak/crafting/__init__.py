"""How protections are crafted: losses of images, the ascent inside a budget, surrogates, and what it climbs through."""
