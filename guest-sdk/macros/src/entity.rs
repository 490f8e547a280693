//! `#[entity]`: from one `impl` block the operations of an entity kind, and a
//! proxy that calls them from an orchestration.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::Parser;
use syn::spanned::Spanned;
use syn::{Attribute, Error, Expr, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, Result, Type, Visibility};

use crate::signature::{self, Complaints, Options};

/// One operation, understood.
struct Operation {
    ident: Ident,
    name: String,
    docs: Vec<Attribute>,
    description: String,
    takes_context: bool,
    input: Option<(Ident, Type)>,
    output: Type,
    is_async: bool,
}

pub(crate) fn expand(arguments: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let definition: ItemImpl =
        syn::parse2(item).map_err(|error| Error::new(error.span(), "#[entity] goes on an impl block of its state"))?;
    let state = state_type(&definition)?;
    let (kind, keep) = options(arguments, &state)?;
    let mut complaints = Complaints::default();
    let mut operations = Vec::new();
    for item in &definition.items {
        if let ImplItem::Fn(method) = item
            && matches!(method.vis, Visibility::Public(_))
            && matches!(method.sig.inputs.first(), Some(FnArg::Receiver(_)))
        {
            match understand(method, &mut complaints) {
                Ok(operation) => operations.push(operation),
                Err(error) => complaints.add(error),
            }
        }
    }
    complaints.finish()?;
    if operations.is_empty() {
        return Err(Error::new(
            definition.self_ty.span(),
            "an entity has at least one operation: a `pub fn` with `&mut self` or `&self`",
        ));
    }
    let served = served(&state, &kind, keep.as_ref(), &operations);
    let proxy = proxy(&state, &kind, &operations);
    Ok(quote! { #definition #served #proxy })
}

fn state_type(definition: &ItemImpl) -> Result<Ident> {
    if let Some((_, path, _)) = &definition.trait_ {
        return Err(Error::new_spanned(path, "#[entity] goes on an impl block of its state, not of a trait"));
    }
    if !definition.generics.params.is_empty() {
        return Err(Error::new_spanned(&definition.generics, "an entity cannot be generic: its state is recorded"));
    }
    if let Type::Path(path) = &*definition.self_ty
        && let Some(ident) = path.path.get_ident()
    {
        return Ok(ident.clone());
    }
    Err(Error::new_spanned(&definition.self_ty, "an entity's state is a type of this module"))
}

fn options(arguments: TokenStream, state: &Ident) -> Result<(String, Option<Expr>)> {
    let mut kind = crate::activities::snake_case(&state.to_string());
    let mut keep = None;
    for option in &Options::parse_terminated.parse2(arguments)? {
        if option.path.is_ident("kind") {
            kind = signature::text(option)?;
        } else if option.path.is_ident("keep") {
            keep = Some(option.value.clone());
        } else {
            return Err(signature::unknown(option, "`kind = \"...\"` or `keep = <operations>`"));
        }
    }
    if kind.contains('@') {
        return Err(Error::new(state.span(), "an entity's kind has no `@`: its instances are called `@kind@key`"));
    }
    Ok((kind, keep))
}

fn understand(method: &ImplItemFn, complaints: &mut Complaints) -> Result<Operation> {
    let signature = &method.sig;
    let shape = "an operation takes `(&mut self)` or `(&self)`, then `ctx: EntityContext` if it asks for something, \
        then one input if it has one";
    signature::returns_result(signature, "an operation", complaints);
    if let Some(FnArg::Receiver(me)) = signature.inputs.first()
        && me.reference.is_none()
    {
        complaints.add(Error::new_spanned(me, shape));
    }
    if ["new", "id"].iter().any(|taken| signature.ident == taken) {
        complaints.add(Error::new(
            signature.ident.span(),
            "the proxy has a method of that name already; give the operation another",
        ));
    }
    let mut inputs = signature.inputs.iter().skip(1).peekable();
    let takes_context = inputs.next_if(|argument| is_context(argument)).is_some();
    let input = inputs.next().and_then(signature::argument);
    if let Some(extra) = inputs.next() {
        return Err(Error::new_spanned(extra, format!("{shape}; put several inputs into one struct")));
    }
    Ok(Operation {
        ident: signature.ident.clone(),
        name: signature.ident.to_string(),
        docs: method.attrs.iter().filter(|attribute| attribute.path().is_ident("doc")).cloned().collect(),
        description: signature::doc_text(&method.attrs),
        takes_context,
        input: input.map(|(ident, ty)| (ident, ty.clone())),
        output: signature::output(signature),
        is_async: signature.asyncness.is_some(),
    })
}

fn is_context(argument: &FnArg) -> bool {
    let Some((_, Type::Path(path))) = signature::argument(argument) else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident == "EntityContext")
}

fn served(state: &Ident, kind: &str, keep: Option<&Expr>, operations: &[Operation]) -> TokenStream {
    let names: Vec<_> = operations.iter().map(|operation| &operation.name).collect();
    let arms = operations.iter().map(|operation| {
        let Operation { ident, name, takes_context, input, output, is_async, .. } = operation;
        let context = if *takes_context { quote!(ctx,) } else { quote!() };
        let call = match input {
            Some((_, ty)) => {
                let what = format!("input of operation {name:?} of entity {kind:?}");
                let decode = quote_spanned!(ty.span()=> ::dacapo_sdk::__private::decode::<#ty>(#what, &input)?);
                quote!(#state::#ident(self, #context #decode))
            }
            None => quote!(#state::#ident(self, #context)),
        };
        let wait = if *is_async { quote!(.await) } else { quote!() };
        let encode = quote_spanned!(output.span()=> ::dacapo_sdk::__private::encode(output));
        quote! { #name => { let output = #call #wait; #encode } }
    });
    let described = operations.iter().map(|operation| {
        let Operation { name, description, input, output, .. } = operation;
        let input_schema = match input {
            Some((_, ty)) => quote!((&::dacapo_sdk::__private::Probe::<#ty>::new()).schema()),
            None => quote!(::core::option::Option::None),
        };
        quote! {
            ::dacapo_sdk::EntityOperation {
                name: #name,
                description: #description,
                input_schema: #input_schema,
                output_schema: (&::dacapo_sdk::__private::Probe::<
                    <#output as ::dacapo_sdk::__private::ResultParts>::Ok,
                >::new()).schema(),
            }
        }
    });
    let proxy = format_ident!("{state}Proxy");
    let keep = keep.map(|keep| quote!(const KEEP: u32 = #keep;));
    quote! {
        impl ::dacapo_sdk::Entity for #state {
            type Proxy = #proxy;
            const KIND: &'static str = #kind;
            const OPERATIONS: &'static [&'static str] = &[#(#names),*];
            #keep

            fn proxy(ctx: &::dacapo_sdk::Context, key: ::std::string::String) -> #proxy {
                #proxy::new(ctx, key)
            }

            fn operations() -> ::std::vec::Vec<::dacapo_sdk::EntityOperation> {
                #[allow(unused_imports)]
                use ::dacapo_sdk::__private::{WithSchema as _, WithoutSchema as _};
                ::std::vec![#(#described),*]
            }

            fn run<'a>(
                &'a mut self,
                ctx: ::dacapo_sdk::EntityContext,
                operation: &'a str,
                input: ::dacapo_sdk::Payload,
            ) -> ::dacapo_sdk::__private::LocalBoxFuture<
                'a,
                ::dacapo_sdk::Result<::dacapo_sdk::Payload>,
            > {
                ::std::boxed::Box::pin(async move {
                    let _ = (&ctx, &input);
                    match operation {
                        #(#arms)*
                        other => ::core::result::Result::Err(
                            ::dacapo_sdk::__private::unknown_operation(#kind, other, &[#(#names),*]),
                        ),
                    }
                })
            }
        }
    }
}

fn proxy(state: &Ident, kind: &str, operations: &[Operation]) -> TokenStream {
    let proxy = format_ident!("{state}Proxy");
    let documentation = format!("Calls operations of one entity of the kind `{kind}`.");
    let calls = operations.iter().map(|operation| {
        let Operation { ident, name, docs, input, output, .. } = operation;
        let (parameter, input) = match input {
            Some((name, ty)) => (quote!(#name: #ty), quote_spanned!(ty.span()=> &#name)),
            None => (quote!(), quote!(&())),
        };
        quote! {
            #(#docs)*
            pub fn #ident(&self, #parameter) -> ::dacapo_sdk::EntityCall<
                <#output as ::dacapo_sdk::__private::ResultParts>::Ok,
            > {
                self.ctx.call_entity(self.id(), #name, #input)
            }
        }
    });
    let delete = (!operations.iter().any(|operation| operation.name == "delete")).then(|| {
        quote! {
            /// Deletes the entity: used again, it begins with its default state.
            pub fn delete(&self) -> ::dacapo_sdk::EntityCall<()> {
                self.ctx.call_entity(self.id(), "delete", &())
            }
        }
    });
    quote! {
        #[doc = #documentation]
        #[derive(::core::clone::Clone, ::core::fmt::Debug)]
        #[allow(dead_code)]
        pub struct #proxy {
            ctx: ::dacapo_sdk::Context,
            key: ::std::string::String,
        }

        #[allow(dead_code)]
        impl #proxy {
            /// The entity with that key; it need not exist yet.
            pub fn new(ctx: &::dacapo_sdk::Context, key: impl ::core::convert::Into<::std::string::String>) -> Self {
                Self { ctx: ::core::clone::Clone::clone(ctx), key: key.into() }
            }

            /// Which entity it is.
            pub fn id(&self) -> ::dacapo_sdk::EntityId {
                ::dacapo_sdk::EntityId::new(#kind, ::core::clone::Clone::clone(&self.key))
            }

            #(#calls)*
            #delete
        }

        impl ::core::convert::From<&#proxy> for ::dacapo_sdk::EntityId {
            fn from(proxy: &#proxy) -> Self {
                proxy.id()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(item: TokenStream) -> Vec<String> {
        crate::complaints(expand(TokenStream::new(), item))
    }

    #[test]
    fn what_an_operation_may_not_be() {
        let wrong = quote! {
            impl Counter {
                pub fn add(&mut self, a: u8, b: u8) -> Result<u8> { Ok(a + b) }
                pub fn get(&self) -> u8 { 0 }
                fn helper(&self) -> u8 { 0 }
            }
        };
        let complaints = complaints(wrong);
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].ends_with("put several inputs into one struct"), "{complaints:?}");
        assert_eq!(complaints[1], "an operation returns a `Result`, such as `dacapo_sdk::Result<()>`");
    }

    #[test]
    fn what_it_may_not_go_on() {
        assert_eq!(
            complaints(quote!(
                struct Counter;
            )),
            ["#[entity] goes on an impl block of its state"]
        );
        assert_eq!(
            complaints(quote!(impl Counter {})),
            ["an entity has at least one operation: a `pub fn` with `&mut self` or `&self`"]
        );
    }
}
