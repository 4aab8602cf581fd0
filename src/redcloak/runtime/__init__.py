"""How a graph of stages runs, and where its results lie: the graph, its plan, the workers, and the store."""
