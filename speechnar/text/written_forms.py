"""Tables of what stands for words in English text: units, currencies, abbreviations, symbols, letters of other scripts.

A pair is what is said for one and for several.
"""

from collections.abc import Mapping

MARKS = ",.?!;:—"
"""What remains of punctuation; a dash is always U+2014."""

MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"),
    "December",
)
SHORT_MONTHS: Mapping[str, str] = {
    **{month[:3]: month for month in MONTHS if month != "May"},
    "Sept": "September",
}
SHORT_DAYS: Mapping[str, str] = {
    **{"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday"},
    **{"Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"},
}
Names = tuple[str, str, str, str]
"""One and several, of a currency and of its hundredth."""
_EURO = ("euro", "euros", "cent", "cents")
_POUND = ("pound", "pounds", "penny", "pence")
_YEN = ("yen", "yen", "sen", "sen")
CURRENCIES: Mapping[str, Names] = {
    **{"$": ("dollar", "dollars", "cent", "cents"), "£": _POUND, "€": _EURO, "¥": _YEN},
    **{"₹": ("rupee", "rupees", "paisa", "paise"), "₽": ("ruble", "rubles", "cent", "cents")},
    **{"₩": ("won", "won", "cent", "cents"), "₿": ("bitcoin", "bitcoins", "cent", "cents")},
    **{
        "US$": ("U-S dollar", "U-S dollars", "cent", "cents"),
        "C$": ("Canadian dollar", "Canadian dollars", "cent", "cents"),
    },
    **{"A$": ("Australian dollar", "Australian dollars", "cent", "cents")},
}
CURRENCY_CODES: Mapping[str, Names] = {
    **{"USD": CURRENCIES["US$"], "EUR": _EURO, "GBP": _POUND, "JPY": _YEN, "INR": CURRENCIES["₹"]},
    **{"CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"), "CAD": CURRENCIES["C$"], "AUD": CURRENCIES["A$"]},
    **{"SEK": ("Swedish krona", "Swedish kronor", "ore", "ore"), "CNY": ("yuan", "yuan", "fen", "fen")},
    **{
        "NOK": ("Norwegian krone", "Norwegian kroner", "ore", "ore"),
        "DKK": ("Danish krone", "Danish kroner", "ore", "ore"),
    },
    **{"PLN": ("zloty", "zlotys", "cent", "cents")},
}
CURRENCY_NAMES: Mapping[str, Names] = {
    **{names[1]: names for names in (CURRENCIES["$"], CURRENCIES["£"], _EURO, CURRENCIES["₹"])},
}
SCALE_LETTERS: Mapping[str, str] = {
    **{"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"},
    **{"tn": "trillion", "mio": "million", "mrd": "billion"},
}
SCALE_WORDS = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
UNITS: Mapping[str, tuple[str, str]] = {
    **{"mm": ("millimeter", "millimeters"), "cm": ("centimeter", "centimeters"), "m": ("meter", "meters")},
    **{"km": ("kilometer", "kilometers"), "in": ("inch", "inches"), "ft": ("foot", "feet"), "yd": ("yard", "yards")},
    **{"mi": ("mile", "miles"), "mg": ("milligram", "milligrams"), "g": ("gram", "grams"), "lb": ("pound", "pounds")},
    **{"kg": ("kilogram", "kilograms"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces")},
    **{"nm": ("nanometer", "nanometers"), "um": ("micrometer", "micrometers"), "ug": ("microgram", "micrograms")},
    **{"ml": ("milliliter", "milliliters"), "l": ("liter", "liters"), "s": ("second", "seconds")},
    **{"mL": ("milliliter", "milliliters"), "L": ("liter", "liters"), "cl": ("centiliter", "centiliters")},
    **{"dl": ("deciliter", "deciliters"), "ha": ("hectare", "hectares"), "ac": ("acre", "acres")},
    **{"tbsp": ("tablespoon", "tablespoons"), "tsp": ("teaspoon", "teaspoons"), "gal": ("gallon", "gallons")},
    **{"qt": ("quart", "quarts"), "kcal": ("kilocalorie", "kilocalories"), "cal": ("calorie", "calories")},
    **{"Tbsp": ("tablespoon", "tablespoons"), "Tsp": ("teaspoon", "teaspoons"), "pkg": ("package", "packages")},
    **{"ms": ("millisecond", "milliseconds"), "sec": ("second", "seconds"), "secs": ("second", "seconds")},
    **{"usec": ("microsecond", "microseconds"), "ns": ("nanosecond", "nanoseconds"), "wk": ("week", "weeks")},
    **{"min": ("minute", "minutes"), "mins": ("minute", "minutes"), "h": ("hour", "hours"), "hr": ("hour", "hours")},
    **{"hrs": ("hour", "hours"), "yr": ("year", "years"), "yrs": ("year", "years"), "wks": ("week", "weeks")},
    **{"Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "W": ("watt", "watts")},
    **{"MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "kW": ("kilowatt", "kilowatts")},
    **{"MW": ("megawatt", "megawatts"), "V": ("volt", "volts"), "A": ("amp", "amps"), "dB": ("decibel", "decibels")},
    **{"GW": ("gigawatt", "gigawatts"), "Wh": ("watt hour", "watt hours"), "kWh": ("kilowatt hour", "kilowatt hours")},
    **{"mA": ("milliamp", "milliamps"), "mAh": ("milliamp hour", "milliamp hours"), "mV": ("millivolt", "millivolts")},
    **{
        "kV": ("kilovolt", "kilovolts"),
        "Ω": ("ohm", "ohms"),
        "kΩ": ("kilo-ohm", "kilo-ohms"),
        "J": ("joule", "joules"),
    },
    **{"kJ": ("kilojoule", "kilojoules"), "N": ("newton", "newtons"), "hPa": ("hectopascal", "hectopascals")},
    **{"kPa": ("kilopascal", "kilopascals"), "mbar": ("millibar", "millibars"), "psi": ("P-S-I", "P-S-I")},
    **{"kB": ("kilobyte", "kilobytes"), "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes")},
    **{"GB": ("gigabyte", "gigabytes"), "TB": ("terabyte", "terabytes"), "PB": ("petabyte", "petabytes")},
    **{"KiB": ("kibibyte", "kibibytes"), "MiB": ("mebibyte", "mebibytes"), "GiB": ("gibibyte", "gibibytes")},
    **{"kbps": ("kilobit per second", "kilobits per second"), "Mbps": ("megabit per second", "megabits per second")},
    **{"Gbps": ("gigabit per second", "gigabits per second"), "MP": ("megapixel", "megapixels")},
    **{
        "px": ("pixel", "pixels"),
        "fps": ("frame per second", "frames per second"),
        "dpi": ("dot per inch", "dots per inch"),
    },
    **{"rpm": ("revolution per minute", "revolutions per minute"), "bpm": ("beat per minute", "beats per minute")},
    **{"mph": ("mile per hour", "miles per hour"), "kph": ("kilometer per hour", "kilometers per hour")},
    **{"km/h": ("kilometer per hour", "kilometers per hour"), "m/s": ("meter per second", "meters per second")},
    **{"m2": ("square meter", "square meters"), "km2": ("square kilometer", "square kilometers")},
    **{"cm2": ("square centimeter", "square centimeters"), "cm3": ("cubic centimeter", "cubic centimeters")},
    **{"m3": ("cubic meter", "cubic meters"), "%": ("percent", "percent"), "‰": ("per thousand", "per thousand")},
    **{"°": ("degree", "degrees"), "°C": ("degree Celsius", "degrees Celsius")},
    **{"°F": ("degree Fahrenheit", "degrees Fahrenheit"), "¢": ("cent", "cents")},
}
SPACED_UNITS = frozenset("mghsVWLl°%‰¢Ω")
"""Units of one letter that may stand after a space; the others could be words or names there."""
PER = frozenset(
    {"month", "year", "day", "week", "hour", "minute", "second", "person", "kg", "lb", "l", "h", "s", "min"}
)
PER |= {"night", "user", "unit", "page", "mo", "yr", "gallon", "liter", "litre", "mile", "km", "m2", "ha", "kWh", "oz"}
"""What follows the slash of a price or a measure."""
PER_SHORT: Mapping[str, str] = {"mo": "month", "yr": "year"}
TITLES: Mapping[str, str] = {
    **{"mr": "Mister", "mrs": "Missus", "ms": "Miss", "messrs": "Messers", "prof": "Professor", "rev": "Reverend"},
    **{"hon": "Honorable", "capt": "Captain", "lt": "Lieutenant", "col": "Colonel", "gen": "General"},
    **{"gov": "Governor", "sgt": "Sergeant", "maj": "Major", "sen": "Senator", "pres": "President"},
    **{"mt": "Mount", "ft": "Fort", "approx": "approximately", "vs": "versus", "cf": "compare"},
    **{"supt": "Superintendent", "tel": "telephone", "attn": "attention", "incl": "including", "excl": "excluding"},
}
"""Abbreviations that never end a sentence."""
ABBREVIATIONS: Mapping[str, str] = {
    **{"jr": "Junior", "sr": "Senior", "esq": "Esquire", "inc": "Incorporated", "ltd": "Limited", "co": "Company"},
    **{"corp": "Corporation", "dept": "Department", "etc": "et cetera", "ave": "Avenue", "blvd": "Boulevard"},
    **{"rd": "Road", "jan": "January", "feb": "February", "aug": "August", "sept": "September", "oct": "October"},
    **{"nov": "November", "dec": "December", "tues": "Tuesday", "thurs": "Thursday", "max": "maximum"},
    **{"qty": "quantity", "univ": "University", "assn": "Association", "apt": "apartment", "bldg": "building"},
    **{"misc": "miscellaneous", "resp": "respectively", "ext": "extension", "hwy": "Highway"},
}
WITHOUT_STOP = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "messrs",
        "jr",
        "vs",
        "etc",
        "lt",
        "sgt",
        "capt",
        "ltd",
        "blvd",
        "approx",
        "dept",
        "attn",
        "qty",
    ]
)
"""Abbreviations that need no full stop."""
WORDS_IN_SMALL_LETTERS = frozenset(
    {
        *("col", "gen", "co", "ave", "ft", "mt", "dec", "sen", "hon", "rev", "gov", "inc"),
        *("maj", "sr", "pres", "jan", "apt", "resp"),
    }
)
INITIALS: Mapping[str, str] = {"eg": "for example", "ie": "that is"}
BEFORE_NUMBER: Mapping[str, str] = {
    **{"no": "number", "nos": "numbers", "vol": "volume", "fig": "figure", "figs": "figures", "p": "page"},
    **{"pp": "pages", "ch": "chapter", "sec": "section", "mar": "March", "apr": "April", "ca": "circa", "c": "circa"},
    **{"est": "established", "eq": "equation", "ver": "version", "ext": "extension", "art": "article", "jun": "June"},
    **{"jul": "July", "ln": "line", "min": "minimum"},
}
SHORTHANDS: Mapping[str, str] = {
    **{"w/": "with", "w/o": "without", "c/o": "care of", "n/a": "not applicable", "b/c": "because"},
    **{"->": "to", "=>": "to", "<-": "from", "<=": "less than or equal to", ">=": "greater than or equal to"},
    **{"!=": "is not equal to", "==": "equals", "+/-": "plus or minus", "&&": "and", "||": "or", "§§": "sections"},
}
"""Whole words."""
SYMBOLS: Mapping[str, str] = {
    **{"&": "and", "@": "at", "+": "plus", "=": "equals", "%": "percent", "#": "hash", "×": "times", "÷": "over"},
    **{"§": "section", "°": "degrees", "$": "dollars", "£": "pounds", "€": "euros", "¥": "yen", "₹": "rupees"},
    **{"₽": "rubles", "₩": "won", "₿": "bitcoins", "¢": "cents", "‰": "per thousand", "Ω": "ohms"},
    **{"±": "plus or minus", "≈": "about", "≤": "less than or equal to", "≥": "greater than or equal to"},
    **{"≠": "is not equal to", "→": "to", "⇒": "to", "∞": "infinity", "√": "the square root of", "©": "copyright"},
    **{"<": "less than", ">": "greater than", "~": "about", "*": "times", "^": "to the power of"},
}
QUIET_SYMBOLS = frozenset("<>~*^")
"""Said only between or before numbers: elsewhere they are marks of the hand or of typesetting."""
GREEK: Mapping[str, str] = {
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta", "θ": "theta"},
    **{"ι": "iota", "κ": "kappa", "λ": "lambda", "ν": "nu", "ξ": "xi", "ο": "omicron", "π": "pi", "ρ": "rho"},
    **{"σ": "sigma", "ς": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi", "ω": "omega"},
    **{"Γ": "gamma", "Δ": "delta", "Θ": "theta", "Λ": "lambda", "Ξ": "xi", "Π": "pi", "Σ": "sigma", "Φ": "phi"},
    **{"Ψ": "psi"},
}
"""Letters that stand alone; Greek words are not read."""
NUMBERED = frozenset(
    {
        *("chapter", "part", "act", "scene", "volume", "book", "war", "section", "article", "grade", "level", "stage"),
        *("phase", "type", "class", "title", "table", "figure", "appendix", "tier", "unit", "lesson", "mark", "psalm"),
        *(
            "sonnet",
            "bowl",
            "round",
            "quarter",
            "schedule",
            "annex",
            "category",
            "group",
            "division",
            "episode",
            "vatican",
        ),
        *("fantasy", "apollo", "rocky", "rambo", "olympiad", "step", "option", "factor", "canto", "corps"),
    }
)
"""What a Roman numeral counts; after other names it ranks."""
RULERS = frozenset(
    {
        *("henry", "louis", "elizabeth", "charles", "george", "edward", "william", "james", "richard", "john", "paul"),
        *(
            "benedict",
            "pius",
            "francis",
            "philip",
            "napoleon",
            "frederick",
            "wilhelm",
            "nicholas",
            "alexander",
            "peter",
        ),
        *(
            "catherine",
            "ivan",
            "leo",
            "gregory",
            "innocent",
            "urban",
            "clement",
            "ferdinand",
            "otto",
            "ramses",
            "darius",
        ),
        *("gustav", "christian", "carlos", "felipe", "alfonso", "albert", "leopold", "robert", "mary", "maximilian"),
        *("joseph", "franz", "ludwig", "umberto", "pedro", "constantine", "justinian", "harald", "olav", "haakon"),
    }
)
"""Of whom even a single letter ranks: George V."""
NOT_NAMES = frozenset(
    {
        *("the", "an", "a", "this", "my", "his", "her", "our", "your", "their", "that", "with"),
        *("and", "of", "for", "in", "on", "at", "to", "by"),
    }
)
"""Words whose capital is that of a sentence, not of a king."""
LISTED = frozenset(
    {"pages", "chapters", "rooms", "lines", "items", "sections", "verses", "numbers", "questions", "steps"}
)
"""After these, commas between figures part them."""
VERSIONED = frozenset(
    {
        *("version", "release", "python", "java", "ubuntu", "node", "php", "ruby", "ios", "android", "macos", "debian"),
        *(
            "kernel",
            "linux",
            "firmware",
            "django",
            "torch",
            "pytorch",
            "numpy",
            "windows",
            "fedora",
            "rust",
            "go",
            "gcc",
        ),
        *("cuda", "openssl", "kubernetes", "docker", "git", "postgres", "http", "tls", "usb", "bluetooth", "chrome"),
    }
)
"""After these, 3.11 is *three point eleven*."""
SPELLED_WORDS = frozenset({"US", "AI", "ID", "ER", "OS", "PA", "LA", "IT", "AD", "TV", "PC", "EU", "UK", "UN"})
"""Acronyms that are spelled although the dictionary has a word of these letters."""
ALWAYS_SPELLED = frozenset(
    {"api", "url", "usb", "ui", "ux", "ssd", "vpn", "ios", "cli", "ssh", "cpu", "gpu", "sdk", "aka"}
)
SIGNS: Mapping[str, str] = {
    **{".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark"},
    **{"=": "equals", "&": "and", "%": "percent", "#": "hash", "~": "tilde", "+": "plus", "\\": "backslash"},
}
"""Punctuation inside an address."""
