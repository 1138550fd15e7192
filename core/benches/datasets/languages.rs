//! A few requests in German and Spanish, written for this benchmark.

use flotilla_core::routing::TrainingSet;

use super::{Request, task, task_examples};

/// The tasks of a language with their requests.
type Requests = [(&'static str, [&'static str; 12])];

/// The first requests of each task to learn from, the others to be judged by.
const LEARNT: usize = 8;

/// The languages with their requests.
pub(crate) const LANGUAGES: [(&str, &Requests); 2] = [("German", &GERMAN), ("Spanish", &SPANISH)];

/// The examples and the other requests of a language.
pub(crate) fn split(requests: &Requests) -> (TrainingSet, Vec<Request>) {
    let tasks = requests.iter().map(|(name, texts)| {
        let learnt = texts[..LEARNT].iter().map(|text| (*text).to_owned());
        task_examples(task(name).expect("a name"), learnt.collect())
    });
    let judged = requests.iter().flat_map(|(name, texts)| {
        texts[LEARNT..]
            .iter()
            .map(|text| ((*text).to_owned(), task(name)))
    });
    let examples = TrainingSet {
        tasks: tasks.collect(),
        out_of_scope: Vec::new(),
    };
    (examples, judged.collect())
}

const GERMAN: [(&str, [&str; 12]); 4] = [
    (
        "bank",
        [
            "wie hoch ist mein Kontostand",
            "sperre bitte meine Karte",
            "warum wurde meine Zahlung abgelehnt",
            "überweise zwanzig Euro an meine Schwester",
            "wann wird die Miete abgebucht",
            "ich brauche eine neue PIN",
            "wie eröffne ich ein Sparkonto",
            "was kostet eine Überweisung ins Ausland",
            "meine Karte wurde gestohlen",
            "ist mein Gehalt schon auf dem Konto",
            "kann ich eine Zahlung zurückholen",
            "wie ändere ich meine PIN",
        ],
    ),
    (
        "travel",
        [
            "buche einen Flug nach Lissabon",
            "ist mein Zug pünktlich",
            "ich suche ein Hotel in Wien",
            "brauche ich ein Visum für Japan",
            "wie viel Gepäck darf ich mitnehmen",
            "miete mir ein Auto in Oslo",
            "wann fährt der nächste Bus zum Flughafen",
            "welche Impfungen brauche ich für Kenia",
            "finde einen Flug nach Rom am Freitag",
            "hat mein Flug Verspätung",
            "ein günstiges Hotel am Bahnhof bitte",
            "darf ich mit zwei Koffern fliegen",
        ],
    ),
    (
        "kitchen",
        [
            "wie lange muss ein Ei kochen",
            "womit kann ich Butter ersetzen",
            "gib mir ein Rezept für Linsensuppe",
            "wie viele Kalorien hat ein Apfel",
            "ist die Milch noch gut",
            "was gehört in einen Käsekuchen",
            "wie brate ich Fisch",
            "bei wie viel Grad backt man Brot",
            "ein Rezept für Kartoffelsalat",
            "wie lange kocht Reis",
            "kann man Käse einfrieren",
            "womit würze ich Fisch",
        ],
    ),
    (
        "home",
        [
            "mach das Licht im Flur aus",
            "stell die Heizung auf zwanzig Grad",
            "spiel etwas ruhige Musik",
            "weck mich morgen um sieben",
            "ist die Haustür abgeschlossen",
            "setz Brot auf die Einkaufsliste",
            "erinnere mich an den Müll",
            "wie warm ist es im Schlafzimmer",
            "schalte alle Lampen aus",
            "stell einen Wecker auf sechs Uhr",
            "mach die Musik leiser",
            "was steht auf der Einkaufsliste",
        ],
    ),
];

const SPANISH: [(&str, [&str; 12]); 4] = [
    (
        "bank",
        [
            "cuánto dinero hay en mi cuenta",
            "bloquea mi tarjeta por favor",
            "por qué rechazaron mi pago",
            "envía veinte euros a mi hermana",
            "cuándo se cobra el alquiler",
            "necesito un pin nuevo",
            "cómo abro una cuenta de ahorro",
            "cuánto cuesta una transferencia al extranjero",
            "me robaron la tarjeta",
            "ya llegó mi sueldo a la cuenta",
            "puedo anular un pago",
            "cómo cambio mi pin",
        ],
    ),
    (
        "travel",
        [
            "reserva un vuelo a Lisboa",
            "mi tren llega a tiempo",
            "busco un hotel en Viena",
            "necesito un visado para Japón",
            "cuánto equipaje puedo llevar",
            "alquila un coche en Oslo",
            "cuándo sale el próximo autobús al aeropuerto",
            "qué vacunas necesito para Kenia",
            "encuentra un vuelo a Roma el viernes",
            "mi vuelo tiene retraso",
            "un hotel barato cerca de la estación",
            "puedo volar con dos maletas",
        ],
    ),
    (
        "kitchen",
        [
            "cuánto tiempo se cuece un huevo",
            "con qué puedo sustituir la mantequilla",
            "dame una receta de sopa de lentejas",
            "cuántas calorías tiene una manzana",
            "la leche todavía está buena",
            "qué lleva una tarta de queso",
            "cómo se fríe el pescado",
            "a cuántos grados se hornea el pan",
            "una receta de ensalada de patatas",
            "cuánto tarda en cocerse el arroz",
            "se puede congelar el queso",
            "con qué condimento el pescado",
        ],
    ),
    (
        "home",
        [
            "apaga la luz del pasillo",
            "pon la calefacción a veinte grados",
            "pon música tranquila",
            "despiértame mañana a las siete",
            "está cerrada la puerta de casa",
            "añade pan a la lista de la compra",
            "recuérdame sacar la basura",
            "qué temperatura hace en el dormitorio",
            "apaga todas las lámparas",
            "pon una alarma a las seis",
            "baja la música",
            "qué hay en la lista de la compra",
        ],
    ),
];
