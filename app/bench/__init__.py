import warnings

# Of a dependency's dependency, about its own import; it would stand above every table.
warnings.filterwarnings("ignore", "pkg_resources is deprecated", UserWarning)
