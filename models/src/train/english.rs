//! The small English setting that papers on fine-tuning an encoder share.
//!
//! A byte-level encoder of three blocks learns the King James Bible by masked-token modelling and is fine-tuned on modern text:
//! to tell misspelt dictionary definitions from right ones (tested on definitions and, shifted, on tweets), and to restore
//! hidden letters of film reviews (tested on reviews and, shifted, on tweets).

use super::classify::Classification;
use super::masked::{Cloze, Hidden};
use super::{Base, Recipe, Task};
use crate::data::corpus;
use crate::data::sentiment::Domain;
use crate::data::split::{Fractions, Splits};
use crate::data::tasks::reviews;
use crate::data::tasks::spelling::spelling;
use crate::data::text::TextTask;
use crate::data::tokenizer::Tokenizer;
use crate::data::user::{self, Labels};
use crate::encoder::EncoderConfig;
use crate::experiment::{Result, Run, files};

/// Bytes per passage, `[CLS]` and `[SEP]` included.
const COLUMNS: usize = 32;
/// Pairs of letters swapped in a misspelt passage.
const SWAPS: usize = 2;

/// The tests, with what each is, for [`crate::experiment::Paper::tasks`].
pub const TASKS: [(&str, &str); 4] = [
    (
        "spelling",
        "is a passage of a definition misspelt? trained on definitions",
    ),
    ("spelling, tweets", "the same models on tweets"),
    (
        "letters",
        "hidden letters of film reviews; trained on reviews",
    ),
    ("letters, tweets", "the same models on tweets"),
];

/// What is fine-tuned on in place of the embedded tasks.
pub struct Own {
    /// Tests by name, in domain first; the first is trained on.
    tests: Vec<(String, TextTask)>,
    /// The data's digest.
    id: String,
}

impl Own {
    /// `--data`; with `--checkpoint` alone, the sentiment of film reviews, tested on reviews and, shifted, on tweets; None with
    /// neither.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(run: &Run) -> Result<Option<Self>> {
        let (options, fractions) = (run.options(), Fractions::default());
        if let Some(path) = &options.data {
            let task = user::read(path, &Labels::Found, &fractions)?;
            return Ok(Some(Own {
                tests: vec![(task.name.clone(), task)],
                id: files::digest(path)?,
            }));
        }
        if options.checkpoint.is_none() {
            return Ok(None);
        }
        let of = |domain| reviews::polarity(&[domain], reviews::NEUTRAL_BAND, &fractions);
        Ok(Some(Own {
            tests: vec![
                ("sentiment".into(), of(Domain::Movie)?),
                ("sentiment, tweets".into(), of(Domain::Tweet)?),
            ],
            id: "embedded".into(),
        }))
    }

    fn tasks<'a>(&self, base: &'a Base, most: usize) -> Result<Vec<Box<dyn Task + 'a>>> {
        let tests: Vec<(&str, &TextTask)> = self.tests.iter().map(|(n, t)| (&**n, t)).collect();
        Ok(vec![Box::new(Classification::new(base, &tests, most, 1)?)])
    }
}

/// The encoder, pre-trained on the Bible as a stage of the run; or, where the options name one, the user's checkpoint.
///
/// # Errors
/// As [`Base::pretrained`] and [`Base::from_folder`].
pub fn base(run: &mut Run) -> Result<Base> {
    let options = run.options().clone();
    if let Some(folder) = &options.checkpoint {
        return Base::from_folder(folder, options.tokenizer.as_deref(), run);
    }
    let tokenizer = Tokenizer::bytes()?;
    let config = EncoderConfig {
        hidden_size: 96,
        intermediate_size: 384,
        num_hidden_layers: 3,
        ..EncoderConfig::small(tokenizer.vocabulary(), COLUMNS)
    };
    let cloze = Cloze {
        columns: COLUMNS,
        rate: 0.2,
        asked: 4,
    };
    let recipe = Recipe::new(run.pick(8, 1000, 2000), run.pick(8, 64, 64), 4e-3);
    run.config("pre-training steps", recipe.steps)?;
    Base::pretrained(run, config, tokenizer, cloze, &recipe, || {
        Ok(corpus::scripture(&Fractions::default(), |_| true)?.train)
    })
}

/// What is fine-tuned on, the user's own or else misspelt definitions and hidden letters of reviews, and what runs on it with the
/// base depend on. At most `most` items are scored per test.
///
/// # Errors
/// Embedded data that does not read, a text that the tokeniser cannot encode; what [`Classification::new`] refuses.
pub fn tasks<'a>(
    own: Option<&Own>,
    base: &'a Base,
    most: usize,
) -> Result<(Vec<Box<dyn Task + 'a>>, String)> {
    match own {
        Some(own) => Ok((own.tasks(base, most)?, format!("{} on {}", base.id, own.id))),
        None => Ok((embedded(base, most)?, base.id.clone())),
    }
}

fn embedded(base: &Base, most: usize) -> Result<Vec<Box<dyn Task + '_>>> {
    let fractions = Fractions::default();
    let misspelt = |name, texts| spelling(name, texts, COLUMNS - 2, SWAPS);
    let definitions = corpus::definitions(&fractions)?;
    let definitions = definitions.map(|part| part.into_iter().map(|d| d.1).collect());
    let reviews = corpus::reviews(&fractions, &[Domain::Movie])?;
    // Nothing is trained or tuned on tweets: all of them are a test.
    let Splits {
        train,
        validation,
        test,
    } = corpus::reviews(&fractions, &[Domain::Tweet])?;
    let tweets = Splits {
        test: [test, validation, train].concat(),
        ..Splits::default()
    };
    let [spelling, spelling_tweets, letters, letters_tweets] = TASKS.map(|(name, _)| name);
    let by_spelling = [
        (spelling, &misspelt(spelling, definitions)?),
        (spelling_tweets, &misspelt(spelling_tweets, tweets.clone())?),
    ];
    let by_letters = [
        (letters, &reviews.test[..]),
        (letters_tweets, &tweets.test[..]),
    ];
    Ok(vec![
        // A passage and its misspelt twin stay together.
        Box::new(Classification::new(base, &by_spelling, most, 2)?),
        Box::new(Hidden::new(
            base,
            &reviews.train,
            &reviews.validation,
            &by_letters,
            most,
        )?),
    ])
}
