//! Reads members whose shape is not certain, in the same pass as the rest: whatever does not have the
//! expected shape is passed over. No value is kept whose size a server decides.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Whether a value stands for nothing.
pub fn is_empty(value: &RawValue) -> bool {
    matches!(value.get(), "null" | "false" | "\"\"" | "{}" | "[]" | "0")
}

/// Reads a value, if it has the shape.
///
/// # Errors
/// When it is not valid JSON.
pub fn look<'de, T: Shape<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(Look(PhantomData))
}

/// The choices of a chat or a completion.
#[derive(Debug, Default)]
pub struct Choices<'a> {
    /// Elements that are objects.
    pub length: u64,
    /// One of them has ended with an error, which it may describe.
    pub failed: Option<Option<&'a RawValue>>,
    /// The server has given one of them up: vLLM does so when it is told to end.
    pub is_aborted: bool,
}

/// One of the choices.
#[derive(Debug, Default)]
struct Choice<'a> {
    has_failed: bool,
    is_aborted: bool,
    error: Option<&'a RawValue>,
}

/// The elements of `data`.
#[derive(Debug, Default)]
pub struct Data {
    /// With an image or its address.
    pub images: u64,
    /// With an embedding.
    pub vectors: u64,
}

#[derive(Debug, Default)]
struct Datum {
    is_image: bool,
    is_vector: bool,
}

/// The length of a list.
#[derive(Debug, Default)]
pub struct Length(pub u64);

/// A value of a certain shape. By default neither an object nor a list has it.
pub trait Shape<'de>: Sized {
    /// Reads an object.
    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    /// Reads a list.
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

/// The name of a member.
#[derive(Deserialize)]
pub struct Name<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// Reads the value of a member into its place, if it has the shape.
pub fn last<'de, T: Shape<'de>, A: MapAccess<'de>>(place: &mut Option<T>, map: &mut A) -> Result<(), A::Error> {
    if let Seen(Some(value)) = map.next_value()? {
        *place = Some(value);
    }
    Ok(())
}

impl<'de> Shape<'de> for Choices<'de> {
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut choices = Self::default();
        while let Some(Seen(choice)) = list.next_element::<Seen<Choice<'de>>>()? {
            let Some(choice) = choice else { continue };
            choices.length += 1;
            choices.is_aborted |= choice.is_aborted;
            if choice.has_failed {
                choices.failed.get_or_insert(choice.error);
            }
        }
        Ok(Some(choices))
    }
}

impl<'de> Shape<'de> for Choice<'de> {
    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut choice = Self::default();
        while let Some(Name(name)) = map.next_key()? {
            match &*name {
                "finish_reason" => {
                    let reason = map.next_value::<&RawValue>()?.get();
                    choice.has_failed |= reason == "\"error\"";
                    choice.is_aborted |= reason == "\"abort\"";
                }
                "error" => choice.error = Some(map.next_value::<&RawValue>()?).filter(|error| !is_empty(error)),
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        choice.has_failed |= choice.error.is_some();
        Ok(Some(choice))
    }
}

impl<'de> Shape<'de> for Data {
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut data = Self::default();
        while let Some(Seen(datum)) = list.next_element::<Seen<Datum>>()? {
            let datum = datum.unwrap_or_default();
            data.images += u64::from(datum.is_image);
            data.vectors += u64::from(datum.is_vector);
        }
        Ok(Some(data))
    }
}

impl<'de> Shape<'de> for Datum {
    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Option<Self>, A::Error> {
        let mut datum = Self::default();
        while let Some(Name(name)) = map.next_key()? {
            let place = match &*name {
                "b64_json" | "url" => &mut datum.is_image,
                "embedding" => &mut datum.is_vector,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place |= !is_empty(map.next_value::<&RawValue>()?);
        }
        Ok(Some(datum))
    }
}

impl<'de> Shape<'de> for Length {
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Option<Self>, A::Error> {
        let mut length = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        Ok(Some(Self(length)))
    }
}

/// A value, if it has the shape; any other value is passed over.
struct Seen<T>(Option<T>);

impl<'de, T: Shape<'de>> Deserialize<'de> for Seen<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        look(deserializer).map(Self)
    }
}

struct Look<T>(PhantomData<T>);

impl<'de, T: Shape<'de>> Visitor<'de> for Look<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Option<T>, A::Error> {
        T::of_map(map)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Option<T>, A::Error> {
        T::of_list(list)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Option<T>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<T>, E> {
        Ok(None)
    }
}
