//! What both macros ask of a signature, and how they say what is wrong with it.

use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, FnArg, Lit, Meta, Pat, Result, ReturnType, Signature, Token, Type};

/// Collects complaints, so that all of them are shown at once.
#[derive(Default)]
pub(crate) struct Complaints(Option<Error>);

impl Complaints {
    pub(crate) fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            None => self.0 = Some(error),
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

/// What holds for orchestrations and activities alike: async, not generic, and a
/// `Result`.
pub(crate) fn check(signature: &Signature, noun: &str, complaints: &mut Complaints) {
    let name = &signature.ident;
    if signature.asyncness.is_none() {
        complaints.add(Error::new_spanned(
            signature.fn_token,
            format!("{noun} is an async function: write `async fn {name}`"),
        ));
    }
    if !signature.generics.params.is_empty() {
        complaints.add(Error::new_spanned(
            &signature.generics,
            format!("{noun} cannot be generic: its input and output are recorded"),
        ));
    }
    returns_result(signature, noun, complaints);
}

/// That it returns a `Result`.
pub(crate) fn returns_result(signature: &Signature, noun: &str, complaints: &mut Complaints) {
    let name = &signature.ident;
    let returns_result = match &signature.output {
        ReturnType::Default => false,
        ReturnType::Type(_, ty) => is_result(ty),
    };
    if !returns_result {
        let message = format!("{noun} returns a `Result`, such as `dacapo_sdk::Result<()>`");
        complaints.add(match &signature.output {
            ReturnType::Default => Error::new(name.span(), message),
            ReturnType::Type(_, ty) => Error::new_spanned(ty, message),
        });
    }
}

/// By its name, so that aliases such as `io::Result` and `PaymentResult` count.
fn is_result(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let last = path.path.segments.last();
    last.is_some_and(|segment| segment.ident.to_string().ends_with("Result"))
}

/// The type that a function returns; `()` if it says none.
pub(crate) fn output(signature: &Signature) -> Type {
    match &signature.output {
        ReturnType::Default => syn::parse_quote!(()),
        ReturnType::Type(_, ty) => (**ty).clone(),
    }
}

/// Where the value type of a `Result` is written, for the compiler to point at.
pub(crate) fn value_span(result: &Type) -> proc_macro2::Span {
    let value = match result {
        Type::Path(path) => path.path.segments.last().and_then(|last| match &last.arguments {
            syn::PathArguments::AngleBracketed(types) => types.args.first(),
            _ => None,
        }),
        _ => None,
    };
    value.map_or_else(|| result.span(), Spanned::span)
}

/// Name and type of an argument; a pattern gets the name `input`.
pub(crate) fn argument(argument: &FnArg) -> Option<(syn::Ident, &Type)> {
    let FnArg::Typed(typed) = argument else {
        return None;
    };
    let name = match &*typed.pat {
        Pat::Ident(pattern) => pattern.ident.clone(),
        _ => syn::Ident::new("input", proc_macro2::Span::call_site()),
    };
    Some((name, &*typed.ty))
}

/// The text of the doc comment, one space of indentation removed.
pub(crate) fn doc_text(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| {
        let Meta::NameValue(meta) = &attribute.meta else {
            return None;
        };
        if !meta.path.is_ident("doc") {
            return None;
        }
        let Expr::Lit(literal) = &meta.value else {
            return None;
        };
        let Lit::Str(text) = &literal.lit else {
            return None;
        };
        let text = text.value();
        Some(text.strip_prefix(' ').unwrap_or(&text).trim_end().to_owned())
    });
    lines.collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// The arguments of an attribute, `name = value` each.
pub(crate) type Options = Punctuated<syn::MetaNameValue, Token![,]>;

/// A string that is given as an option's value.
pub(crate) fn text(option: &syn::MetaNameValue) -> Result<String> {
    if let Expr::Lit(literal) = &option.value
        && let Lit::Str(text) = &literal.lit
        && !text.value().is_empty()
    {
        return Ok(text.value());
    }
    Err(Error::new_spanned(&option.value, "expected a name in quotes"))
}

/// Strings in brackets that are given as an option's value.
pub(crate) fn texts(option: &syn::MetaNameValue) -> Result<Vec<String>> {
    let Expr::Array(array) = &option.value else {
        return Err(Error::new_spanned(&option.value, "expected names in brackets, such as [\"add\", \"remove\"]"));
    };
    let text = |element: &Expr| match element {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) if !text.value().is_empty() => Ok(text.value()),
            _ => Err(Error::new_spanned(element, "expected a name in quotes")),
        },
        _ => Err(Error::new_spanned(element, "expected a name in quotes")),
    };
    array.elems.iter().map(text).collect()
}

/// The names in brackets that are given as an option's value.
pub(crate) fn list(option: &syn::MetaNameValue, what: &str) -> Result<Vec<Expr>> {
    match &option.value {
        Expr::Array(array) if array.elems.iter().all(|name| matches!(name, Expr::Path(_))) => {
            Ok(array.elems.iter().cloned().collect())
        }
        other => Err(Error::new_spanned(other, format!("expected the names of {what} in brackets: [one, another]"))),
    }
}

/// An option that is not known.
pub(crate) fn unknown(option: &syn::MetaNameValue, known: &str) -> Error {
    Error::new_spanned(&option.path, format!("unknown option; expected {known}"))
}
