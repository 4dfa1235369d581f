"""Objects and colors that scenes are made of."""

import dataclasses
from typing import Literal

Category = Literal[
    "animal", "food", "tool", "vehicle", "plant", "toy", "instrument", "clothing", "furniture", "building"
]

Taught = Literal["everywhere", "dialogue"]

COLORS = {
    "red": (220, 50, 47),
    "orange": (242, 140, 40),
    "yellow": (250, 220, 50),
    "green": (60, 165, 70),
    "blue": (45, 105, 220),
    "purple": (140, 75, 185),
    "pink": (245, 130, 185),
    "white": (245, 245, 245),
}
"""RGB of the colors that an object can be painted in."""


@dataclasses.dataclass(frozen=True)
class Thing:
    """Kind of object: its names, artwork and use."""

    name: str
    code: int
    """Unicode code point of its emoji."""
    category: Category
    split: Literal["train", "unseen"] = "unseen"
    """Split; `unseen` things are held out of training."""
    taught: Taught = "everywhere"
    """Texts that mention its use and category: `dialogue` limits them to dialogues and referring expressions; no
    caption mentions them then, and no instruction but those of the world `knowledge`."""
    use: str = ""
    """Verb phrase that completes "the object that can be used to ..."; unique among things."""
    paint: str = ""
    """Color of its OpenMoji's main part, which can be repainted; empty for a thing of fixed color."""
    flies: bool = False
    """Places it in the upper half instead of on the ground."""
    measure: str = ""
    """Measure word: `pair` makes it "a pair of scissors"."""
    plural: str = ""
    """Irregular plural; empty for the name with an s."""


_TRAIN = (
    Thing("dog", 0x1F415, "animal", "train"),
    Thing("cat", 0x1F408, "animal", "train"),
    Thing("duck", 0x1F986, "animal", "train"),
    Thing("butterfly", 0x1F98B, "animal", "train", paint="blue", flies=True, plural="butterflies"),
    Thing("apple", 0x1F34E, "food", "train", use="make cider", paint="red"),
    Thing("banana", 0x1F34C, "food", "train", use="feed a monkey"),
    Thing("key", 0x1F511, "tool", "train", use="open a lock", paint="orange"),
    Thing("scissors", 0x2702, "tool", "train", "dialogue", use="cut paper", measure="pair", plural="pairs of scissors"),
    Thing("umbrella", 0x2602, "tool", "train", "dialogue", use="stay dry in the rain", paint="purple"),
    Thing("bucket", 0x1FAA3, "tool", "train", "dialogue", use="carry water", paint="blue"),
    Thing("book", 0x1F4D5, "tool", "train", use="read a story", paint="red"),
    Thing("camera", 0x1F4F7, "tool", "train", "dialogue", use="take photos"),
    Thing("car", 0x1F697, "vehicle", "train", use="drive a family to the beach", paint="red"),
    Thing(
        "bus", 0x1F68C, "vehicle", "train", "dialogue", use="take many passengers to work", paint="red", plural="buses"
    ),
    Thing("airplane", 0x2708, "vehicle", "train", use="fly to another country", flies=True),
    Thing("tree", 0x1F333, "plant", "train", use="hang a swing from"),
    Thing("balloon", 0x1F388, "toy", "train", use="decorate a party", paint="red", flies=True),
    Thing("soccer ball", 0x26BD, "toy", "train", "dialogue", use="score a goal"),
    Thing("chair", 0x1FA91, "furniture", "train", "dialogue", use="sit down", paint="yellow"),
    Thing("house", 0x1F3E0, "building", "train", use="live in", paint="white"),
)

_UNSEEN = (
    Thing("horse", 0x1F40E, "animal"),
    Thing("elephant", 0x1F418, "animal"),
    Thing("penguin", 0x1F427, "animal"),
    Thing("turtle", 0x1F422, "animal"),
    Thing("carrot", 0x1F955, "food"),
    Thing("cake", 0x1F382, "food", use="celebrate a birthday"),
    Thing("candle", 0x1F56F, "tool", use="give light with a flame"),
    Thing("hammer", 0x1F528, "tool", use="drive a nail"),
    Thing("backpack", 0x1F392, "tool", use="carry things to school", paint="red"),
    Thing("bicycle", 0x1F6B2, "vehicle", use="travel by pedalling", paint="red"),
    Thing("cactus", 0x1F335, "plant", plural="cacti"),
    Thing("sunflower", 0x1F33B, "plant"),
    Thing("cow", 0x1F404, "animal"),
    Thing("pig", 0x1F416, "animal", paint="pink"),
    Thing("sheep", 0x1F411, "animal", plural="sheep"),
    Thing("rabbit", 0x1F407, "animal"),
    Thing("tiger", 0x1F405, "animal"),
    Thing("zebra", 0x1F993, "animal"),
    Thing("giraffe", 0x1F992, "animal"),
    Thing("rhino", 0x1F98F, "animal"),
    Thing("camel", 0x1F42B, "animal"),
    Thing("monkey", 0x1F412, "animal"),
    Thing("rooster", 0x1F413, "animal"),
    Thing("fox", 0x1F98A, "animal", plural="foxes"),
    Thing("panda", 0x1F43C, "animal"),
    Thing("lion", 0x1F981, "animal"),
    Thing("owl", 0x1F989, "animal"),
    Thing("snail", 0x1F40C, "animal"),
    Thing("bee", 0x1F41D, "animal", flies=True),
    Thing("lemon", 0x1F34B, "food"),
    Thing("watermelon", 0x1F349, "food", measure="slice", plural="slices of watermelon"),
    Thing("grapes", 0x1F347, "food", measure="bunch", plural="bunches of grapes"),
    Thing("strawberry", 0x1F353, "food", plural="strawberries"),
    Thing("pineapple", 0x1F34D, "food"),
    Thing("bread", 0x1F35E, "food", measure="loaf", plural="loaves of bread"),
    Thing("cheese", 0x1F9C0, "food", measure="piece", plural="pieces of cheese"),
    Thing("burger", 0x1F354, "food"),
    Thing("pizza", 0x1F355, "food", measure="slice", plural="slices of pizza"),
    Thing("donut", 0x1F369, "food"),
    Thing("mushroom", 0x1F344, "food", paint="red"),
    Thing("spoon", 0x1F944, "tool", use="eat soup"),
    Thing("wrench", 0x1F527, "tool", use="tighten a bolt", plural="wrenches"),
    Thing("axe", 0x1FA93, "tool", use="chop wood"),
    Thing("lock", 0x1F512, "tool", use="keep a gate shut", paint="yellow"),
    Thing("broom", 0x1F9F9, "tool", use="sweep the floor"),
    Thing("ladder", 0x1FA9C, "tool", use="climb up to the roof"),
    Thing("flashlight", 0x1F526, "tool", use="light a dark room with a battery"),
    Thing("alarm clock", 0x23F0, "tool", use="wake someone up"),
    Thing("laptop", 0x1F4BB, "tool", use="browse the internet"),
    Thing("pencil", 0x270F, "tool", use="write a note"),
    Thing("trash can", 0x1F5D1, "tool", use="load garbage"),
    Thing("truck", 0x1F69A, "vehicle", use="haul heavy goods", paint="white"),
    Thing("tractor", 0x1F69C, "vehicle", use="plough a field", paint="green"),
    Thing("helicopter", 0x1F681, "vehicle", use="land on a mountain top", paint="red", flies=True),
    Thing("rocket", 0x1F680, "vehicle", use="travel to the moon", flies=True),
    Thing("UFO", 0x1F6F8, "vehicle", flies=True),
    Thing("sailboat", 0x26F5, "vehicle", use="cross a lake with the wind"),
    Thing("pine tree", 0x1F332, "plant"),
    Thing("palm tree", 0x1F334, "plant"),
    Thing("tulip", 0x1F337, "plant", paint="orange"),
    Thing("rose", 0x1F339, "plant", paint="red"),
    Thing("gift", 0x1F381, "toy", paint="yellow"),
    Thing("teddy bear", 0x1F9F8, "toy"),
    Thing("kite", 0x1FA81, "toy", paint="pink", flies=True),
    Thing("basketball", 0x1F3C0, "toy", use="throw into a hoop"),
    Thing("guitar", 0x1F3B8, "instrument", use="play music with strings", paint="red"),
    Thing("trumpet", 0x1F3BA, "instrument", use="blow a fanfare"),
    Thing("violin", 0x1F3BB, "instrument", use="play music with a bow"),
    Thing("drum", 0x1F941, "instrument", use="beat a rhythm", paint="red"),
    Thing("shoe", 0x1F45F, "clothing", use="protect a foot"),
    Thing("door", 0x1F6AA, "furniture", use="enter a room"),
)

THINGS = {thing.name: thing for thing in (*_TRAIN, *_UNSEEN)}
"""Kinds of objects by name, those of training first; COCO-Stuff's numbers leave room for 91."""
