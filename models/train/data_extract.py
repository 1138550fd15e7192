"""Free-form sentences about orders, readings and appointments, and their JSON objects."""

import json
import random
import zlib

from folders import EXTRACT_PIECES
from model import generate
from tokenizer import END, prompt_text, train_tokenizer
from trainer import Recipe

SHAPE = {"hidden": 128, "intermediate": 384, "layers": 4, "heads": 4}
RECIPE = Recipe(
    epochs=16,
    batch=32,
    lr=2.5e-3,
    weight_decay=0.05,
    dropout=0.0,
    label_smoothing=0.0,
    prompt_loss=0.0,
    replace=0.0,
    ema=0.99,
)

# The fixed parts of an answer are one token each.
SCAFFOLD = (
    '{"type": "order", "item": "',
    '", "quantity": ',
    ', "customer": "',
    '{"type": "reading", "device": "',
    '", "value": ',
    ', "unit": "',
    '{"type": "appointment", "person": "',
    '", "day": "',
    '", "time": "',
    '"}',
)

FIRST_NAMES = """
maria anna peter john james robert linda susan karen lisa mark paul steven kevin laura sarah emma olivia noah liam
lucas mia sofia amelia elena ivan olga yuki kenji hiro mei wei chen priya arjun ravi anil fatima omar ali hassan leila
nadia yusuf ahmed zara tom tim jack harry george oscar felix max moritz jonas lukas hannah lena clara marie julie pierre
luc camille chloe louis hugo marco luca giulia paolo carlos diego pablo lucia carmen jose miguel rosa ana joao pedro
ines tiago erik lars sven astrid ingrid freya bjorn kari nina mikkel piotr agnieszka jakub tereza pavel zoltan katalin
dimitri eleni kofi ama kwame chidi ngozi amara thabo zanele david daniel michael joseph samuel grace ruth helen alice
betty dora edith frank gus henry irene kate leo nora otto quinn rita stella theo ursula vera walter xenia yves zoe
""".split()
LAST_NAMES = """
smith jones brown taylor wilson lopez garcia martinez rossi bianchi ferrari muller schmidt weber fischer wagner becker
hoffmann klein wolf novak svoboda horvat kovacs nagy silva santos costa pereira almeida dubois moreau laurent bernard
petit jansen bakker visser smit hansen olsen larsen nilsson berg lindqvist virtanen korhonen ivanov petrov sokolov
kowalski nowak tanaka sato suzuki yamada kim park lee wang zhang liu singh patel sharma gupta khan hussain rahman
okafor mensah diallo traore haddad nasser cohen levi evans roberts walker wright green hall wood clark lewis young king
scott adams baker carter cooper morgan reed bell murphy kelly ryan quinn byrne fraser grant stone marsh fox lane
""".split()
ITEM_WORDS = """
red blue green black white small large heavy light wooden steel plastic copper glass cotton leather paper rubber garden
kitchen office coffee tea water desk floor wall table metal old new round square long short fresh dried organic frozen
""".split()
ITEM_NOUNS = """
mugs cups plates bowls chairs tables lamps desks shelves boxes crates bottles jars pens pencils notebooks folders
printers cables chargers laptops monitors keyboards mice screws bolts nuts nails hammers drills saws ladders gloves
boots shirts jackets hats socks scarves blankets pillows towels curtains carpets tiles bricks pipes valves pumps filters
batteries bulbs candles apples pears lemons bananas tomatoes onions potatoes carrots eggs loaves pizzas burgers
sandwiches cakes cookies muffins beans croissants salads steaks bikes helmets tyres wheels tents ropes hooks
buckets brooms brushes sponges bags wallets watches rings clocks mirrors frames posters books maps magazines toys dolls
puzzles balls rackets skates gaskets bearings springs washers hinges locks keys
""".split()
DEVICES = """
boiler freezer fridge oven heater radiator pump compressor turbine generator motor fan chiller tank reactor furnace
greenhouse cellar attic kitchen warehouse garage engine battery inverter transformer meter sensor probe gauge detector
thermostat scale dryer mixer conveyor press kiln valve silo pool aquarium incubator server router rack lab office
bedroom basement barn mill crane lift tower panel charger controller
""".split()
DEVICE_WORDS = """
main north south east west upper lower outdoor indoor front back left right water gas power heat pressure humidity
temperature flow smoke spare first second room oil air steam solar wind
""".split()
UNITS = {
    "c": ["c", "°c", "degrees celsius", "degrees c", "celsius"],
    "f": ["f", "°f", "degrees fahrenheit", "degrees f", "fahrenheit"],
    "%": ["%", "percent", "per cent"],
    "bar": ["bar"],
    "kwh": ["kwh", "kilowatt hours"],
    "kw": ["kw", "kilowatts"],
    "w": ["w", "watts", "watt"],
    "v": ["v", "volts", "volt"],
    "a": ["a", "amps", "amperes"],
    "ppm": ["ppm", "parts per million"],
    "l": ["l", "liters", "litres"],
    "m3": ["m3", "cubic meters", "cubic metres"],
    "kg": ["kg", "kilograms", "kilos"],
    "rpm": ["rpm", "revolutions per minute"],
    "kpa": ["kpa", "kilopascals"],
    "hz": ["hz", "hertz"],
    "db": ["db", "decibels"],
    "lux": ["lux"],
}
GLUED_UNITS = ("c", "°c", "f", "°f", "%", "kwh", "kw", "w", "v", "a", "l", "kg", "kpa", "hz", "db", "bar", "m3", "ppm", "rpm")
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "today", "tomorrow"]
NUMBER_WORDS = "one two three four five six seven eight nine ten eleven twelve".split()

ORDERS = [
    "{qty} {item} for {who}",
    "order {qty} {item} for {who}",
    "{who} orders {qty} {item}",
    "{who} ordered {qty} {item}",
    "{who} has ordered {qty} {item}",
    "{who} wants {qty} {item}",
    "{who} would like {qty} {item}",
    "{who} needs {qty} {item}",
    "{who} bought {qty} {item}",
    "{who} asked for {qty} {item}",
    "{who} is asking for {qty} {item}",
    "{who} wants to buy {qty} {item}",
    "{who} would like to order {qty} {item}",
    "send {qty} {item} to {who}",
    "ship {qty} {item} to {who}",
    "deliver {qty} {item} to {who}",
    "please send {who} {qty} {item}",
    "we need to ship {qty} {item} to {who}",
    "new order: {qty} {item} for {who}",
    "new order from {who}: {qty} {item}",
    "order from {who}: {qty} {item}",
    "{who}: {qty} {item}",
    "for {who}: {qty} {item}",
    "customer {who} wants {qty} {item}",
    "customer {who} ordered {qty} {item} today",
    "my name is {who} and i want {qty} {item}",
    "my name is {who}, i would like {qty} {item}",
    "this is {who}, i need {qty} {item}",
    "this is {who}. please send me {qty} {item}",
    "i am {who} and i would like to order {qty} {item}",
    "i want to order {qty} {item}, my name is {who}",
    "i would like {qty} {item}. name: {who}",
    "i need {qty} {item}, the name is {who}",
    "can i get {qty} {item}? my name is {who}",
    "could i have {qty} {item} under the name {who}",
    "put {qty} {item} on the order of {who}",
    "an order of {qty} {item} came in from {who}",
    "we got an order for {qty} {item} from {who}",
    "{who} just called and ordered {qty} {item}",
    "{who} placed an order for {qty} {item}",
    "item: {item}, quantity: {qty}, customer: {who}",
    "customer: {who}, item: {item}, quantity: {qty}",
    "{item} x {qty} for {who}",
    "{qty} x {item} for {who}",
    "reserve {qty} {item} for {who}",
    "pack {qty} {item} for {who}",
    "{qty} {item} go to {who}",
    "{qty} {item} were ordered by {who}",
    "{who} wants us to send {qty} {item}",
    "{who} needs us to ship {qty} {item}",
    "{who} asked us to deliver {qty} {item}",
    "{who} called to order {qty} {item}",
    "{who} called and needs {qty} {item}",
    "{who} came in and ordered {qty} {item}",
    "we have an order from {who}: {qty} {item}",
    "we have a new order: {qty} {item} for {who}",
    "there is a new order from {who} for {qty} {item}",
    "we have an order for {qty} {item} from {who}",
    "{who} wants to buy {qty} {item} today",
    "{who} would like to have {qty} {item} today",
    "{who} needs {qty} {item} today",
    "{qty} {item} to be sent to {who}",
    "{qty} {item} have to be shipped to {who}",
    "{qty} {item} to be delivered for {who}",
    "pack {qty} {item} and ship them to {who}",
    "please get {qty} {item} and bring them to {who}",
    "please buy {qty} {item} for {who}",
]
HELDOUT_ORDERS = [
    "please order {qty} {item} for {who}",
    "{who} called and wants {qty} {item}",
    "we have a new order from {who} for {qty} {item}",
    "i am {who}, please send me {qty} {item}",
    "{who} would like to buy {qty} {item} today",
    "{qty} {item} to be shipped to {who}",
    "hello, my name is {who}. can i order {qty} {item}?",
    "order: {qty} {item}, customer: {who}",
    "please pack {qty} {item} and send them to {who}",
    "{who} needs us to deliver {qty} {item}",
]
READINGS = [
    "{device} reads {value}",
    "{device} shows {value}",
    "{device} is at {value}",
    "{device} at {value}",
    "{device}: {value}",
    "{device} = {value}",
    "the {device} reads {value}",
    "the {device} shows {value}",
    "the {device} is at {value}",
    "the {device} is now at {value}",
    "the {device} measures {value}",
    "the {device} reports {value}",
    "the {device} says {value}",
    "the {device} has reached {value}",
    "the {device} went up to {value}",
    "the {device} dropped to {value}",
    "the {device} is running at {value}",
    "the {device} currently shows {value}",
    "the {device} currently stands at {value}",
    "the reading of the {device} is {value}",
    "reading of {device}: {value}",
    "reading from the {device}: {value}",
    "the value of the {device} is {value}",
    "the display of the {device} shows {value}",
    "{value} on the {device}",
    "{value} at the {device}",
    "{value} measured at the {device}",
    "i read {value} on the {device}",
    "i see {value} on the {device}",
    "we measured {value} at the {device}",
    "we have {value} on the {device}",
    "there are {value} on the {device} now",
    "device {device} reports {value}",
    "device: {device}, value: {value}",
    "device {device}, reading {value}",
    "new reading for {device}: {value}",
    "log {value} for the {device}",
    "record {value} for {device}",
    "note that the {device} is at {value}",
    "the last reading of the {device} was {value}",
    "today the {device} showed {value}",
    "this morning the {device} was at {value}",
    "according to the {device} it is {value}",
    "measured {value} with the {device}",
    "the {device} was at {value} this morning",
    "the {device} was {value} today",
    "the {device} showed {value} this morning",
    "we measured {value} at the {device} today",
    "i measured {value} on the {device} today",
    "i saw {value} on the {device} this morning",
    "i noted {value} at the {device} this morning",
    "new reading from the {device}: {value}",
    "new value for the {device}: {value}",
    "a new value from {device}, {value}",
    "it is {value} on the {device}",
    "it is now {value} in the {device}",
    "{device} value: {value}",
    "{device} level: {value}",
    "{device} status: {value}",
    "right now it is {value} at the {device}",
]
HELDOUT_READINGS = [
    "the {device} now reads {value}",
    "right now the {device} is at {value}",
    "we read {value} on the {device}",
    "new value from the {device}: {value}",
    "the display on the {device} says {value}",
    "please log {value} for the {device}",
    "i measured {value} at the {device} this morning",
    "{device} reading: {value}",
    "the {device} was at {value} today",
    "it is {value} at the {device}",
]
APPOINTMENTS = [
    "meeting with {who} {when}",
    "meet {who} {when}",
    "appointment with {who} {when}",
    "i have an appointment with {who} {when}",
    "i have a meeting with {who} {when}",
    "i am meeting {who} {when}",
    "i will see {who} {when}",
    "book {who} {when}",
    "book an appointment with {who} {when}",
    "book a meeting with {who} {when}",
    "schedule {who} {when}",
    "schedule a call with {who} {when}",
    "schedule a meeting with {who} {when}",
    "set up a meeting with {who} {when}",
    "make an appointment for {who} {when}",
    "{who} comes {when}",
    "{who} is coming {when}",
    "{who} has an appointment {when}",
    "{who} will be here {when}",
    "{who} wants to meet {when}",
    "{who} would like an appointment {when}",
    "{who} can come {when}",
    "{when}: {who}",
    "{when} with {who}",
    "{when} i have an appointment with {who}",
    "{when} i am meeting {who}",
    "{when} there is a meeting with {who}",
    "{when}: appointment with {who}",
    "lunch with {who} {when}",
    "dinner with {who} {when}",
    "call {who} {when}",
    "call with {who} {when}",
    "remind me to see {who} {when}",
    "remind me to call {who} {when}",
    "put {who} in the calendar {when}",
    "visit from {who} {when}",
    "visit {who} {when}",
    "interview with {who} {when}",
    "see {who} {when}",
    "can you fit in {who} {when}?",
    "let's meet {who} {when}",
    "my appointment with {who} is {when}",
    "the meeting with {who} is {when}",
    "the appointment of {who} is {when}",
    "schedule an appointment with {who} {when}",
    "schedule a visit with {who} {when}",
    "plan an interview with {who} {when}",
    "there is an interview with {who} {when}",
    "there is a call with {who} {when}",
    "remind me of the call with {who} {when}",
    "remind me of the appointment with {who} {when}",
    "{when} {who} comes",
    "{when} {who} will be here",
    "{when} {who} wants to meet",
    "{when} {who} has an appointment",
    "{who} is coming in {when}",
    "{who} has a call {when}",
    "i will call {who} {when}",
]
HELDOUT_APPOINTMENTS = [
    "please book a call with {who} {when}",
    "{who} has a meeting {when}",
    "i will meet {who} {when}",
    "{when} {who} is coming",
    "the call with {who} is {when}",
    "set up an appointment with {who} {when}",
    "{who} would like to meet {when}",
    "remind me of the meeting with {who} {when}",
    "there is an appointment with {who} {when}",
    "schedule an interview with {who} {when}",
]
WHEN = [
    "on {day} at {time}", "{day} at {time}", "{day} {time}", "on {day}, {time}", "at {time} on {day}", "{day}, {time}",
    "at {time} {day}", "for {day} at {time}",
]
BEFORE = [
    "hi, ", "hello, ", "hey, ", "ok, ", "please note: ", "fyi: ", "good morning, ", "hi there. ", "note: ", "so, ",
    "just to say, ", "update: ",
]
AFTER = [" please", ", please", ", thanks", " thank you", ". thanks!", " asap", ", ok?", ". thank you."]

ONSETS = "b c d f g h j k l m n p qu r s t v w x y z br cr dr fl gr kl pl pr sch sh st tr th zw".split()
VOWELS = "a e i o u a e i o u ai ea ee ie oo ou y".split()
CODAS = ["", "", "", "", *"n r s l t k m x p d ck nd rt sk".split()]


def _held_out_word(word):
    return zlib.crc32(word.encode()) % 8 == 0


def _made_up(rng):
    if rng.random() < 0.15:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(3, 8)))
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(1, 3)))


class _Words:
    """Random slot values from a word list or made up, from one part of the held-out split only."""

    def __init__(self, rng, held_out):
        self.rng, self.held_out = rng, held_out

    def word(self, words):
        while True:
            # Made-up words keep the model from memorising the word lists.
            word = _made_up(self.rng) if self.rng.random() < 0.45 else self.rng.choice(words)
            if _held_out_word(word) == self.held_out:
                return word

    def person(self):
        name, style = self.word(FIRST_NAMES), self.rng.random()
        if style < 0.5:
            return name
        if style < 0.88:
            return f"{name} {self.word(LAST_NAMES)}"
        return f"{self.rng.choice(('mr.', 'ms.', 'mrs.', 'dr.', 'dr', 'mr', 'mrs'))} {self.word(LAST_NAMES)}"

    def item(self):
        noun = self.word(ITEM_NOUNS)
        return noun if self.rng.random() < 0.45 else f"{self.word(ITEM_WORDS)} {noun}"

    def device(self):
        rng, device = self.rng, self.word(DEVICES)
        if rng.random() < 0.35:
            device = f"{self.word(DEVICE_WORDS)} {device}"
        style = rng.random()
        if style < 0.3:
            device += f" {rng.randint(1, 40)}"
        elif style < 0.4:
            device += f" {rng.choice('abcdefghkmnprstvxz')}{rng.randint(1, 99)}"
        elif style < 0.5:
            device += f"-{rng.randint(1, 99)}{rng.choice(('', '', 'a', 'b', 'c'))}"
        return device


def _quantity(rng):
    if rng.random() < 0.25:
        number = rng.randint(1, 12)
        return number, NUMBER_WORDS[number - 1]
    if rng.random() < 0.05:
        return 12, "a dozen"
    number = rng.choice((rng.randint(1, 12), rng.randint(1, 99), rng.randint(100, 999)))
    return number, str(number)


def _value(rng):
    number = str(rng.choice((rng.randint(0, 40), rng.randint(0, 120), rng.randint(100, 9999))))
    if rng.random() < 0.55:
        number += "." + "".join(rng.choice("0123456789") for _ in range(rng.choice((1, 1, 1, 2))))
    spoken = number
    if rng.random() < 0.1 and float(number):
        number, spoken = f"-{number}", rng.choice(("-", "minus ")) + number
    unit = rng.choice(list(UNITS))
    name = rng.choice(UNITS[unit])
    gap = "" if name in GLUED_UNITS and rng.random() < 0.45 else " "
    return number, unit, f"{spoken}{gap}{name}"


def _time(rng):
    hour = rng.choice((rng.randint(7, 20), rng.randint(0, 23)))
    minute = rng.choice((0, 0, 15, 30, 30, 45, rng.randint(0, 59)))
    exact, style = f"{hour:02}:{minute:02}", rng.random()
    if style < 0.5 or hour == 0:
        return exact, exact if rng.random() < 0.6 else f"{hour}:{minute:02}"
    half = rng.choice(("", " ")) + ("am" if hour < 12 else "pm")
    clock = (hour - 1) % 12 + 1
    if minute:
        return exact, f"{clock}:{minute:02}{half}"
    if hour == 12 and rng.random() < 0.5:
        return exact, "noon"
    return exact, f"{clock}{half}" if rng.random() < 0.7 else f"{clock}:00{half}"


def _plain_example(rng):
    words, kind = _Words(rng, False), rng.randrange(3)
    number = rng.randint(0, 99)
    if kind == 0:
        item, person = words.word(ITEM_NOUNS), words.word(FIRST_NAMES)
        fields = {"type": "order", "item": item, "quantity": number, "customer": person}
        return f"{number} {item} for {person}", json.dumps(fields)
    if kind == 1:
        device, unit = words.word(DEVICES), rng.choice(list(UNITS))
        fields = {"type": "reading", "device": device, "value": number, "unit": unit}
        return f"{device}: {number} {unit}", json.dumps(fields)
    person, day, time = words.word(FIRST_NAMES), rng.choice(DAYS), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    return f"{person} {day} {time}", json.dumps({"type": "appointment", "person": person, "day": day, "time": time})


def _example(rng, held_out):
    words, kind = _Words(rng, held_out), rng.randrange(3)
    if kind == 0:
        quantity, spoken = _quantity(rng)
        fields = {"type": "order", "item": words.item(), "quantity": quantity, "customer": words.person()}
        template = rng.choice(HELDOUT_ORDERS if held_out else ORDERS)
        text = template.format(qty=spoken, item=fields["item"], who=fields["customer"])
        answer = json.dumps(fields)
    elif kind == 1:
        number, unit, spoken = _value(rng)
        device = words.device()
        text = rng.choice(HELDOUT_READINGS if held_out else READINGS).format(device=device, value=spoken)
        # Not json.dumps, because the digits are copied as they are written: 7.0 and 7.00 differ.
        answer = f'{{"type": "reading", "device": "{device}", "value": {number}, "unit": "{unit}"}}'
    else:
        person, day, (exact, spoken) = words.person(), rng.choice(DAYS), _time(rng)
        when = rng.choice(WHEN)
        if day in ("today", "tomorrow"):
            when = when.replace("on {day}", "{day}")
        template = rng.choice(HELDOUT_APPOINTMENTS if held_out else APPOINTMENTS)
        text = template.format(who=person, when=when.format(day=day, time=spoken))
        answer = json.dumps({"type": "appointment", "person": person, "day": day, "time": exact})
    if rng.random() < 0.3:
        text = rng.choice(BEFORE) + text
    if rng.random() < 0.25:
        text = text.rstrip("?") + rng.choice(AFTER)
    elif rng.random() < 0.4 and not text.endswith("?"):
        text += rng.choice((".", ".", "!"))
    return text, answer


class ExtractTask:
    """Tokenizer, training sentences and held-out evaluation."""

    max_new_tokens = 64

    def __init__(self, epoch_size=6400, plain_epochs=4, heldout_size=1500):
        self.epoch_size, self.plain_epochs = epoch_size, plain_epochs
        rng = random.Random(7)
        corpus = [_example(rng, False)[0] for _ in range(20000)]
        self.tokenizer = train_tokenizer(corpus, 640, SCAFFOLD, pieces=EXTRACT_PIECES)
        rng = random.Random(11)
        self.heldout = [_example(rng, True) for _ in range(heldout_size)]

    def epoch_examples(self, epoch):
        """Token-id pairs `(prompt, answer)`: new sentences each epoch.

        The sentences of the first epochs have the shortest wording and one-word slots: the model learns
        to copy on short sequences, which train fast, before it learns free wording.
        """
        rng = random.Random(1000 + epoch)
        plain = epoch < self.plain_epochs
        pairs = [_plain_example(rng) if plain else _example(rng, False) for _ in range(self.epoch_size)]
        end = self.tokenizer.token_to_id(END)
        prompts = self.tokenizer.encode_batch([prompt_text(text) for text, _ in pairs])
        answers = self.tokenizer.encode_batch([text for _, text in pairs])
        return [(prompt.ids, text.ids + [end]) for prompt, text in zip(prompts, answers)]

    def check(self, params, cfg):
        """Share of held-out sentences whose greedy answer is exactly the expected JSON."""
        prompts = [enc.ids for enc in self.tokenizer.encode_batch([prompt_text(text) for text, _ in self.heldout])]
        answers = generate(params, cfg, prompts, self.tokenizer.token_to_id(END), self.max_new_tokens, batch=128)
        decoded = self.tokenizer.decode_batch(answers)
        return sum(text == expected for text, (_, expected) in zip(decoded, self.heldout)) / len(decoded)
