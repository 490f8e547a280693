//! `#[query]`: keeps the function and puts a type of its name beside it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Error, ItemFn, Result, Type};

use crate::signature::{self, Complaints, Options};

const SHAPE: &str = "a query takes `(state: &State)` or `(state: &State, input: T)`";

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn =
        syn::parse2(item).map_err(|error| Error::new(error.span(), "#[query] goes on a function"))?;
    let mut name = function.sig.ident.to_string();
    for option in &Options::parse_terminated.parse2(arguments)? {
        if !option.path.is_ident("name") {
            return Err(signature::unknown(option, "`name = \"...\"`"));
        }
        name = signature::text(option)?;
    }
    let (state, input) = check(&function)?;

    let description = signature::doc_text(&function.attrs);
    let (visibility, ident) = (&function.vis, &function.sig.ident);
    let output = signature::output(&function.sig);
    let (input_schema, run) = match input {
        Some(input) => {
            let what = format!("input of query {name:?}");
            let decode = quote_spanned!(input.span()=> ::dacapo_sdk::__private::decode::<#input>(#what, &input));
            (quote! { (&::dacapo_sdk::__private::Probe::<#input>::new()).schema() }, quote! { #ident(state, #decode?) })
        }
        None => (quote!(::core::option::Option::None), quote! { { let _ = input; #ident(state) } }),
    };
    let encode = quote_spanned!(signature::value_span(&output)=> ::dacapo_sdk::__private::encode(output));
    let documentation = format!("The query `{name}`.");

    Ok(quote! {
        #function

        #[doc = #documentation]
        #[allow(non_camel_case_types)]
        #[derive(::core::clone::Clone, ::core::marker::Copy, ::core::fmt::Debug)]
        #visibility struct #ident {}

        impl ::dacapo_sdk::Query for #ident {
            const NAME: &'static str = #name;
            const DESCRIPTION: &'static str = #description;
            type State = #state;

            fn schemas() -> (
                ::core::option::Option<::std::string::String>,
                ::core::option::Option<::std::string::String>,
            ) {
                #[allow(unused_imports)]
                use ::dacapo_sdk::__private::{WithSchema as _, WithoutSchema as _};
                type Output = <#output as ::dacapo_sdk::__private::ResultParts>::Ok;
                (
                    #input_schema,
                    (&::dacapo_sdk::__private::Probe::<Output>::new()).schema(),
                )
            }

            fn answer(
                state: &Self::State,
                input: ::dacapo_sdk::Payload,
            ) -> ::dacapo_sdk::Result<::dacapo_sdk::Payload> {
                let output = #run;
                #encode
            }
        }
    })
}

/// The types of the state and of the input, if there is one.
fn check(function: &ItemFn) -> Result<(&Type, Option<&Type>)> {
    let sig = &function.sig;
    let mut complaints = Complaints::default();
    if let Some(token) = &sig.asyncness {
        complaints.add(Error::new_spanned(token, "a query cannot wait: write it without `async`"));
    }
    if !sig.generics.params.is_empty() {
        complaints.add(Error::new_spanned(&sig.generics, "a query cannot be generic: its input and output are JSON"));
    }
    signature::returns_result(sig, "a query", &mut complaints);
    let mut arguments = sig.inputs.iter().map(signature::argument);
    let state = match arguments.next() {
        Some(Some((_, Type::Reference(reference)))) if reference.mutability.is_none() => Some(&*reference.elem),
        _ => {
            complaints.add(Error::new(sig.paren_token.span.join(), SHAPE));
            None
        }
    };
    let input = arguments.next().flatten().map(|(_, ty)| ty);
    if arguments.next().is_some() {
        complaints.add(Error::new_spanned(&sig.inputs, format!("{SHAPE}; put several inputs into one struct")));
    }
    complaints.finish()?;
    Ok((state.expect("a complaint was made where there is none"), input))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_said_at_once() {
        let wrong = quote! {
            async fn booked(trip: &mut Trip) -> u32 { 0 }
        };
        let complaints: Vec<_> =
            expand(TokenStream::new(), wrong).unwrap_err().into_iter().map(|e| e.to_string()).collect();
        assert_eq!(
            complaints,
            [
                "a query cannot wait: write it without `async`",
                "a query returns a `Result`, such as `dacapo_sdk::Result<()>`",
                SHAPE,
            ]
        );
        let right = quote! {
            fn booked(trip: &Trip, kind: String) -> Result<u32> { Ok(0) }
        };
        assert!(expand(TokenStream::new(), right).is_ok());
    }
}
